"""Measures the links that leave a site: RTT in the control account, goodput in the bulk account."""
