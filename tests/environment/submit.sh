#!/bin/sh
# A cluster in two lines: the job starts here, beside the others; its number is that of the process.
sh "$1" > "$1.log" 2>&1 &
echo $!
