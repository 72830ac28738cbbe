"""The pieces that several stages of the workflow share; each stage itself is a script beside this folder."""
