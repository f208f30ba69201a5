"""One module a command of `oct-vjepa`: each has `add(commands)`, which describes its arguments.

A command parses, calls one function of the library and prints; nothing imports it but `cli`.
"""
