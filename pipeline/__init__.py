"""The distillation pipeline: stages on Ray (``*_stage.py``) over plain modules."""
