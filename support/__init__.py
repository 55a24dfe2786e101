"""Nothing in here is needed to understand NICE: files, command lines, devices, pictures, fits."""
