"""Ren et al. 2021, "Accelerating DNN Training in Wireless Federated Edge Learning Systems".

§VI: batches and time slots against the paper's benchmarks, Table II and Figs. 3 to 5.

By default in the paper's cell with small networks on the embedded images; with ``--full`` in
the paper's own setting. Rates are averages over fading in both, eqs. (5) and (6).
"""
