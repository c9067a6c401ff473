"""Real port mistakes that can be switched on: `with fault("TIM-01"): …`."""

from parity.faults.registry import FAULTS, Fault, fault

__all__ = ["FAULTS", "Fault", "fault"]
