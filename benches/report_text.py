"""The text of `benches/README.md`, and the rows that the project's documentation shows."""

OPENING = """# Measured

All results of the benchmarks, written by `benches/report.py` from `benches/results`. The heading of
a table names the hardware profile (`aiq profiles show NAME`) that made the predictions.
"""

DEPLOYMENTS = """
## Deployments in every runtime

`benches/deployments.py` takes each network through the whole job in each runtime: trace, search,
deploy in w8a8, compare with float32. A cell shows the layers in int8, the error of the output, and
in parentheses the error of the simulation by which the plan was judged. An error is the norm of the
difference from the float32 output, over the norm of that output less its mean. A deployment is good
if all layers run in the format of the plan (no mismatch), and if its error is at most 1.5 times
that of the simulation plus 0.02. A bold cell says what is wrong, mismatches included; an empty cell
was not run. Networks are small and have random weights.
"""

THROUGHPUT = """
## Plans against every uniform precision

`benches/throughput.py`. The numbers are ratios of throughput to float32 in the same runtime,
measured and predicted. "Against the best" compares the plan with the best uniform precision, timed
in turns, and gives the ratio with its 95 % interval. A plan is called *faster* or *slower* only if
the difference exceeds the noise of the row. The drop is measured on 10,000 test images; networks
without a drop have random weights, so any drop was allowed. The search timed its best four plans
(`measure_top`), or fewer in the largest networks.

Not all rows were timed in the same way:

* Most rows use the ratio of the medians. Newer rows use the median of the ratios within rounds: all
  rows on Zen 5, and on Zen 3 ResNet-20, ViT-S at batch 16, BERT-base, MobileNetV2 at 224 pixels and
  batch 16, EfficientNet-B0, RegNetY, ShuffleNetV2 and ConvNeXt-T.
* Before a sample, one call fills the caches. On Zen 5 calls fill them for 20 ms, except in
  MobileNetV2 at batch 128.
* BERT-base at batch 1 on Zen 4 was timed three times; the first two results, 1.05 and 1.04, were
  within the noise.
* The Xeon was timed within minutes, while similar programs ran on its other processors.
* Predictions are those of the profile at the time of the measurement.
"""

PEERS = """\
## Against the runtimes' own tools

`benches/peers.py` times our int8 programs and those that the runtimes' own tools make, in turns, in
CPU time of one thread. The ratio is the time of a candidate over that of aiq in w8a8, with its 95 %
interval: below 1 aiq is slower. Trained networks are evaluated on all 10,000 test images; "aiq is
worse by" has the standard error of the paired difference. The seconds to produce a program are CPU
time from the module to the first result.
"""

PREDICTION = """
## Prediction against the stopwatch

`benches/prediction.py`. The networks and plans are in no calibration. An error is the mean relative
error of the time (networks, in float32) or of the speed-up over float32 (plans; 30 random ones of
each network, half of them scattered). *Lower roof* bounds the time by the intensity of the whole
network, *roofline* is the sum over layers, and *calibrated* is the model that the search uses; the
columns after *calibrated* belong to it. Noise is that of the measurement. The sign of a speed-up is
counted only for plans that differ from float32 by more than the noise. A plan that was drawn
several times, as float32 often is, takes the median of its times. The rows of a runtime count
together, at all batches.

### How the profiles were made

| machine | runtime | calibration |
| --- | --- | --- |
| Zen 3, two threads | OpenVINO | 540 programs in three calls, 23 minutes |
| | ONNX Runtime | 360 programs in 13 minutes; all but twelve once more in 12 minutes |
| | TorchInductor | 216 programs in 13 minutes |
| Zen 5, two threads | OpenVINO | 768 programs in 13 minutes |
| | ONNX Runtime | 540 programs in 8 minutes |
| | TorchInductor | 240 programs in 10 minutes |
| Zen 5, one thread | OpenVINO | 840 programs in two calls, 15 minutes |
| | ONNX Runtime | 468 programs in 8 minutes |
| Xeon, both profiles | all | 36 to 108 programs in 130 s, with other processors busy |

Without options a call of `aiq calibrate` stops after about eight minutes.

### What differs between rows

* On Zen 3 and Zen 5, programs and rows took turns with the anchor, a program whose time shows the
  present speed of the shared machine. The predictions of a row are scaled by the time of the anchor
  in that row over its time in the calibration. On Zen 4 the fastest of one to four passes counts
  instead, or the only pass (rows with one thread, and plans in ONNX Runtime).
* Times of plans on Zen 3 are means of several timings: two (ResNet-20 in OpenVINO, SqueezeNet in
  ONNX Runtime), three (MobileNetV2 in OpenVINO), one (TorchInductor), or four (the others). In
  newer rows quiet timings weigh more. Plans in OpenVINO with one thread on Zen 5 are means of two
  timings; during the second the anchor was 4 % slower than in the calibration. The noise of
  OpenVINO's networks is that of the anchor.
* The model was refined between calibrations. The samples of OpenVINO and ONNX Runtime on Zen 3 were
  timed before the model had separate terms for the reordering of inputs and for the elements that
  poolings read, and were cut into pieces again. OpenVINO's did not know yet which layers have
  operators fused into them. Only the profiles of Zen 5 with one thread use the time between layers
  that a profiler shows, learn from plans that alternate formats, and reorder an input once for all
  its readers. In all earlier profiles of OpenVINO and ONNX Runtime the layer times of some programs
  belong to the wrong layers: those that were exported together with a program that pads its
  convolutions to the same size.
* Profiles of Zen 4 and the Xeon come from an earlier fit, which did not know fused layers and
  programs beyond the caches as well. Their time per element that a pooling writes became a time per
  element that it reads, a quarter as long, so that poolings by two cost the same as before. The
  profiles of Zen 3 and the Xeon treat the noise of the machine as an error of the samples; those of
  Zen 4 do not.
* The section of OpenVINO with two threads on Zen 4 leaves out 69 programs that were timed in one
  disturbed pass only. Some of its times are those of a version that wrote means over images as
  poolings. The steal in OpenVINO's profile of Zen 3 is that of a fit during which nothing was
  timed.
* On Zen 5 with two threads one call fills the caches before a sample. After it, an int8 network
  among thirty others is still up to 27 % slower than in a loop of its own; with one thread 20 ms of
  calls fill the caches. With two threads small networks took 0.25 ms in one minute and 0.35 ms in
  another, while the anchor took only 6 % more. (These numbers come from scripts that were not
  kept.) The float32 peak was at first measured with MKL's slower product; samples with two threads
  were fitted again with oneDNN's peak. In ONNX Runtime only four networks were timed with two
  threads.
* All profiles were fitted with products of two shape features. The products were later projected
  onto single features, over the layers of random programs weighted by their work, and the rows were
  predicted again without new timing. A first projection without weights made OpenVINO's networks on
  Zen 3 10.8 % wrong, so these networks influenced the choice of the weights.

![predicted over measured on Zen 5 with one thread](../docs/prediction.png)
"""

CALIBRATION = """
## What a calibration learns

`benches/calibration.py`. Each row is one fit to the samples of a calibration: to the first programs
only, as a shorter calibration would have timed them, or to all programs with one assumption
changed. *Left out* is the mean error on synthetic programs that were left out of the fit; the
assumptions were chosen by it. The columns after it are the networks and plans of the section above,
with the lowest Spearman and the highest regret of the three networks whose plans were timed. A
default call stops after eight minutes; on Zen 3 that is 216 programs in OpenVINO, 228 in ONNX
Runtime (all of them timed twice here) and about 150 in TorchInductor, and on Zen 5 with one thread
about 440 in OpenVINO. *No anchor* fits the times without the anchor. "As it is" had products of two
features, which no longer exist; a calibration today fits "no products of features".
"""

SHOWN = {
    "xeon_2vcpu": ("mobilenet_v2/128", "resnet20/128"),
    "xeon_emerald_2vcpu": (
        "mobilenet_v2/128",
        "resnet20/128",
        "vit_s/1/openvino",
        "bert_base/1/openvino",
    ),
    "epyc_zen5_2vcpu": (
        "mobilenet_v2/128",
        "vit_s/1/openvino",
        "bert_base/1/openvino",
        "efficientnet_b0/1/onnxruntime",
        "shufflenet_v2/1/onnxruntime",
    ),
    "epyc_zen4_2vcpu": (
        "mobilenet_v2/128",
        "vit_s/1/openvino",
        "vit_s/16/openvino",
        "bert_base/1/openvino",
        "efficientnet_b0/1/onnxruntime",
    ),
    "epyc_zen3_2vcpu": (
        "mobilenet_v2/128",
        "regnet_y_400mf/1/onnxruntime",
        "shufflenet_v2/1/onnxruntime",
        "efficientnet_b0/1/onnxruntime",
    ),
}
"""Profile -> beginnings of the names of the rows of plans that `docs/results.md` shows."""

SOLVER = {
    "separable L=54": "one budget, 54 layers",
    "separable L=200": "one budget, 200 layers",
    "separable L=224 llm": "one budget, 224 layers of 7 shapes",
    "separable L=1000": "one budget, 1,000 layers",
    "separable L=10000": "one budget, 10,000 layers",
    "chain L=54": "edges along a chain, 54 layers",
    "chain L=200": "edges along a chain, 200 layers",
    "chain L=1000": "edges along a chain, 1,000 layers",
    "residual L=200": "edges of a residual network, 200 layers",
    "residual L=1000": "edges of a residual network, 1,000 layers",
    "two budgets L=54": "two budgets, 54 layers",
    "two budgets L=200": "two budgets, 200 layers",
    "two budgets L=224 llm": "two budgets, 224 layers of 7 shapes",
    "two budgets L=1000": "two budgets, 1,000 layers",
    "pisinger uncorrelated": "Pisinger's uncorrelated",
    "pisinger weakly": "Pisinger's weakly correlated",
    "pisinger subset-sum": "Pisinger's subset sum",
    "pisinger zig-zag": "Pisinger's zig-zag",
    "pisinger strongly": "Pisinger's strongly correlated",
}
"""Class of problems in `benches/solver.py` -> its name in `docs/results.md`."""
