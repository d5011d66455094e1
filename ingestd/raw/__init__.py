"""One instrument file as values: bytes in, values out; nothing here touches a disk, a clock or a logger."""
