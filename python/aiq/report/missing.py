"""What a report may lack, why, and the command that gives it."""

NO_TABLES = (
    "This plan keeps no tables, because an older version saved it: the frontier, the roofline, the "
    "graph and the heat map are missing. Search again to see them."
)
LOWER_BOUND = (
    "Times are lower bounds, from the peaks of the machine alone, so no speed-up is stated. "
    "`aiq calibrate` makes them predictions."
)
NOT_SOLVED = (
    "The search measured whole plans, and no layer alone: there is no frontier between these plans "
    "and no heat map. `aiq search --method exact --frontier` makes both."
)
CHEAPEST = (
    "No plan is cheaper than this one, and it holds the budget, so the search ended there. It "
    "evaluated no layer alone and no other plan but float32: the other uniform precisions have a "
    "predicted time and no known accuracy drop. `aiq search --frontier` evaluates them, too."
)
NO_HEAT = "No layer was evaluated alone. `aiq search --frontier` does that, for this picture."
SINGLE = "The frontier is a single plan: no other one is faster at any accuracy drop."
NOT_TIMED = (
    "Nothing was timed. `aiq compare --layers --json` does that, and `aiq report --comparison` "
    "shows it here; the commands stand at the end of this page."
)
TOKENS_NOT_SHOWN = (
    "Times of a decoder are not shown here. `aiq compare` measures them; the commands stand at the "
    "end of this page."
)
NOT_COMPARED = NOT_TIMED.replace("Nothing was timed", "Nothing was timed layer by layer")
BEATEN = (
    "{} uniform precisions that another one beats in cost and in drop, or that were not evaluated, "
    "are left out."
)
NO_ENERGY = "Energy is left out: the hardware profile states none for an operation or a byte."
ENERGY = "Energy is that of all multiplications and of all bytes moved, once from memory: {}."
