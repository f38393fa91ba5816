"""What a conversation is: its state, the fold of events into it, and the decisions on commands.

`decide` holds the commands, and makes events of a command and a state; `fold` makes the next state of events;
`state_machine` says which event may follow which. `prompt` is what a model is told of a conversation.
All of this is pure: no I/O, no clock, no task.
"""
