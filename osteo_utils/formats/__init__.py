"""What files of radiographs hold: the decoders, and archives unpacked in safety."""
