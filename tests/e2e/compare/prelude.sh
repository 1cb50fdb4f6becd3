# What steps of the comparison have in common.

# Waits until the task $1 has the status $2.
await() {
	for _ in $(seq 300); do
		ctr tasks ls | grep -Eq "^$1 +[0-9]+ +$2" && return 0
		sleep 0.05
	done
	echo "$1 is not $2:" >&2
	ctr tasks ls >&2
	return 1
}

# Waits until the file $1 has the line $2.
await_line() {
	for _ in $(seq 300); do
		grep -q "$2" "$1" 2>/dev/null && return 0
		sleep 0.05
	done
	echo "$1 has no line $2:" >&2
	cat "$1" >&2
	return 1
}

# Runs a command line on a terminal of its own.
on_terminal() { script -qefc "$1" /dev/null; }

# What a folder holds, with modes, owners, sizes, targets and contents, but not times.
tree_of() {
	(cd "$1" && find . -printf '%M %u %g %n %y %p %l\n' | sort && find . -type f -print0 | sort -z | xargs -0r sha256sum)
}

# Collects what nothing refers to, now.
collect() {
	ctr leases create --id collect >/dev/null && ctr leases delete --sync collect >/dev/null
}

# Runs a transfer and tells how it ended: of its progress, only what was reached, in any order.
settled() {
	"$@" >settled.out 2>settled.err
	code=$?
	sed -e 's/\x1b\[[0-9;]*[A-Za-z]//g' -e 's/[ |+]*$//' -e '/^elapsed:/d' -e '/ \(waiting\|downloading\|uploading\|resolving\|fetching\|committing\)\b/d' settled.out | sort -u
	cat settled.err >&2
	return $code
}

# What a tar archive holds; a whiteout has no time that means anything.
listing() { tar tv --utc | sed -E '/\.wh\./s/ [0-9-]+ [0-9:]+ / - /'; }

# Writes a shell script into prog/, for containers to mount.
program() {
	mkdir -p prog && printf '#!/bin/sh\n%s\n' "$2" >"prog/$1" && chmod +x "prog/$1"
}
