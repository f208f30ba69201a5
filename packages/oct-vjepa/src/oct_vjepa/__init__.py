"""V-JEPA 2 for any 3-D volume."""
