"""`RunHandle`: how a tool's function says that it wants the run it is called in.

The class that apps know, `Run`, stands in a higher room and inherits from this one; so a parameter's annotation
tells it from an argument without an import upwards.
"""


class RunHandle:
    """A parameter of this type, or of one that inherits from it, is given the run and is no argument."""
