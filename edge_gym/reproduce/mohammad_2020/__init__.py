"""Mohammad et al. 2020, "Task Allocation for Asynchronous Mobile Edge Learning with Delay and
Energy Constraints".

Figs. 4 to 8: schemes of task allocation against cycle times and energy limits.

The figures are views of one sweep over cells, a cycle time T and a mean energy limit E each, so
that figures written into one folder share what was run. By default it is the small problem of
``TaskAllocation-v0``, whose learners make as many updates as the paper's do, with targets that
lie as far along its curves; with ``--full`` the paper's own problem. Where the best of several
schemes is compared, it is the best of these very episodes, and intervals are wider for the choice.
"""
