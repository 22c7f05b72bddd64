"""The verbs: one module a task.

A task module has a docstring whose first line is its help, `Request`, the model that
answers by `DEFAULT`, and, where needed, `check(request)` before and `tidy(request, result)`
after. A composed task has `run(request, call)` instead of a `DEFAULT`, and reaches others
by `call.run`.
"""
