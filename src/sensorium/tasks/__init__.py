"""The verbs: one module a task.

A task module has a docstring whose first line is its help, `Request`, the model that
answers by `DEFAULT`, and, where needed, `check(request)` before and `tidy(request, result)`
after. A composed task has `run(request, call)` instead of a `DEFAULT`, and reaches others
by `call.run`; where it passes `model` on to one of them, `ASKS` names that. One that speaks of
a model without asking it names by `ABOUT` the task that such models do, and has
`run(request, call, card)`.
"""
