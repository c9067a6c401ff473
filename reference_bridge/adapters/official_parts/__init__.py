"""Parts of the official model by themselves, in the reference's environment: single blocks, denoising steps, timed pipelines.

Nothing in here takes part in a capture, and so this folder is not behind the reference's fingerprint: a change of a clock
leaves kept captures valid. What it runs is the code and the patches of `reference_bridge.adapters.official`.
"""
