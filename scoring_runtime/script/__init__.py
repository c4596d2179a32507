"""An entry script: how it is loaded, what its functions get, how they are called."""
