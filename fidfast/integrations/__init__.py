"""One module for each training framework, which nothing else imports: ``fidfast.integrations.lightning`` and others.

Each is thin: when a :class:`fidfast.TrainingEvaluator` is called, and where its state goes. In a loop of your own, and
with Accelerate, call it yourself: examples/training_loop.py, examples/fid_with_accelerate.py.
"""
