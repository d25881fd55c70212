"""One function for each general solver, on the same integers, ``(case, cap) -> (proved, choices)``.

All ask for gap 0, use one thread, and stop after ``cap`` seconds. Edges are linearised in flow
form: a variable per pair of choices, whose sums are the choices of the two layers.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp


def linear_model(case):
    """Columns: x, then y per edge; rows: one choice per layer, then the marginals of y."""
    layers, choices = case.cost.shape
    nx = layers * choices
    n_edges = len(case.edges)
    square = choices * choices
    cost = np.concatenate([case.cost.ravel(), *[e[2].ravel() for e in case.edges]]) / 1e3
    use = [np.concatenate([case.drop.ravel(), *[e[3].ravel() for e in case.edges]])]
    limits = [case.max_drop]
    if case.max_size is not None:
        use.append(np.concatenate([case.size.ravel(), np.zeros(n_edges * square)]))
        limits.append(case.max_size)
    rows = [
        sp.hstack(
            [
                sp.kron(sp.eye(layers), np.ones((1, choices))),
                sp.csr_matrix((layers, n_edges * square)),
            ]
        )
    ]
    right = [np.ones(layers)]
    if n_edges:
        for axis, end in ((0, [e[0] for e in case.edges]), (1, [e[1] for e in case.edges])):
            ones = np.ones((1, choices))
            block = sp.kron(sp.eye(choices), ones) if axis == 0 else sp.kron(ones, sp.eye(choices))
            at = (np.array(end)[:, None] * choices + np.arange(choices)).ravel()
            x = sp.csr_matrix((-np.ones(len(at)), (np.arange(len(at)), at)), (len(at), nx))
            rows.append(sp.hstack([x, sp.kron(sp.eye(n_edges), block)]))
            right.append(np.zeros(n_edges * choices))
    units = [limit / 1e4 for limit in limits]
    use = np.stack([u / unit for u, unit in zip(use, units, strict=True)])
    return cost, use, np.full(len(units), 1e4), sp.vstack(rows).tocsr(), np.concatenate(right), nx


def run_scipy(case, cap):
    cost, use, limits, rows, right, nx = linear_model(case)
    found = milp(
        cost,
        integrality=np.concatenate([np.ones(nx), np.zeros(len(cost) - nx)]),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(rows, right, right), LinearConstraint(use, -np.inf, limits)],
        options={"time_limit": cap, "mip_rel_gap": 0.0},
    )
    x = None if found.x is None else found.x[:nx].reshape(case.cost.shape).argmax(1)
    return found.status == 0, x


def run_highspy(case, cap):
    import highspy  # noqa: PLC0415

    cost, use, limits, rows, right, nx = linear_model(case)
    matrix = sp.vstack([rows, sp.csr_matrix(use)]).tocsc()
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(cost), matrix.shape[0]
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.zeros(len(cost)), np.ones(len(cost))
    lp.row_lower_ = np.concatenate([right, np.full(len(limits), -highspy.kHighsInf)])
    lp.row_upper_ = np.concatenate([right, limits])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = matrix.indptr, matrix.indices
    lp.a_matrix_.value_ = matrix.data
    integer, real = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
    lp.integrality_ = [integer] * nx + [real] * (len(cost) - nx)
    h = highspy.Highs()
    h.setOptionValue("output_flag", False)
    h.setOptionValue("time_limit", float(cap))
    h.setOptionValue("mip_rel_gap", 0.0)
    h.setOptionValue("threads", 1)
    h.passModel(lp)
    h.run()
    status = h.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return True, None
    values = np.array(h.getSolution().col_value)
    x = values[:nx].reshape(case.cost.shape).argmax(1) if len(values) else None
    return status == highspy.HighsModelStatus.kOptimal, x


def run_cpsat(case, cap):
    from ortools.sat.python import cp_model  # noqa: PLC0415

    model = cp_model.CpModel()
    layers, choices = case.cost.shape
    xs = [[model.new_bool_var("") for _ in range(choices)] for _ in range(layers)]
    for row in xs:
        model.add_exactly_one(row)
    variables = [v for row in xs for v in row]
    costs, drops = case.cost.ravel().tolist(), case.drop.ravel().tolist()
    sizes = [] if case.max_size is None else case.size.ravel().tolist()
    for u, v, edge_cost, edge_drop in case.edges:
        ys = [[model.new_bool_var("") for _ in range(choices)] for _ in range(choices)]
        for j in range(choices):
            model.add(sum(ys[j]) == xs[u][j])
            model.add(sum(row[j] for row in ys) == xs[v][j])
        variables += [y for row in ys for y in row]
        costs += edge_cost.ravel().tolist()
        drops += edge_drop.ravel().tolist()
    total = cp_model.LinearExpr.weighted_sum
    model.add(total(variables, drops) <= case.max_drop)
    if sizes:
        model.add(total(variables[: len(sizes)], sizes) <= case.max_size)
    model.minimize(total(variables, costs))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = float(cap)
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return False, None
    x = np.array([next(k for k, v in enumerate(row) if solver.value(v)) for row in xs])
    return status == cp_model.OPTIMAL, x


def run_cbc(case, cap):
    import pulp  # noqa: PLC0415

    cost, use, limits, rows, right, nx = linear_model(case)
    model = pulp.LpProblem("q", pulp.LpMinimize)
    xs = [
        pulp.LpVariable(f"x{i}", 0, 1, "Binary" if i < nx else "Continuous")
        for i in range(len(cost))
    ]
    model += pulp.LpAffineExpression(zip(xs, cost.tolist(), strict=True))
    for i, value in enumerate(right.tolist()):
        span = slice(rows.indptr[i], rows.indptr[i + 1])
        terms = [
            (xs[j], v) for j, v in zip(rows.indices[span], rows.data[span].tolist(), strict=True)
        ]
        model += pulp.LpAffineExpression(terms) == value
    for row, limit in zip(use, limits, strict=True):
        model += pulp.LpAffineExpression(zip(xs, row.tolist(), strict=True)) <= float(limit)
    model.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=cap, gapRel=0, threads=1))
    values = [v.varValue for v in xs[:nx]]
    if any(v is None for v in values):
        return False, None
    x = np.array(values).reshape(case.cost.shape).argmax(1)
    return model.status == 1 and model.sol_status == 1, x


PEERS: dict[str, Callable] = {
    "scipy milp": run_scipy,
    "highspy": run_highspy,
    "cp-sat": run_cpsat,
    "cbc": run_cbc,
}
