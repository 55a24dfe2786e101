"""What a reader of NICE may skip: files, data, pictures, command lines."""
