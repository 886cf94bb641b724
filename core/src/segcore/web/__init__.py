"""A page that runs trained networks in the visitor's browser: what its folder holds, and a server for it."""
