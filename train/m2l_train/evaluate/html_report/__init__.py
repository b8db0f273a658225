"""Write results of `m2l evaluate` as one HTML page that anybody can open: no network, no script."""
