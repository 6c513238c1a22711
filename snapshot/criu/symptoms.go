package criu

import (
	"regexp"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// symptoms are the failures that users meet, most telling first: CRIU logs one failure in several lines. The patterns
// are matched against the error lines of a log, without their time stamps and source positions.
var symptoms = []symptom{
	{
		log: regexp.MustCompile(`anon_inode:\[io_uring\]|send_fds failed \(-22\)`), kind: snapshot.KindUncloneable,
		link: "anon_inode:[io_uring]",
		text: "WHO uses io_uringFD, which cannot be captured",
		hint: "have the program not use io_uring (Node: UV_USE_IO_URING=0), or deny it io_uring_setup by seccomp, and start it again",
	}, {
		log: regexp.MustCompile(`fsnotify:\s+Can't dump that handle`), kind: snapshot.KindUncloneable, link: "anon_inode:inotify",
		text: "WHO watches a file with inotifyFD that CRIU cannot find again: one of the container's overlay",
		hint: "have the program watch nothing, or only files on a tmpfs or a volume",
	}, {
		log: regexp.MustCompile(`anon_inode:\[userfaultfd\]`), kind: snapshot.KindUncloneable,
		link: "anon_inode:[userfaultfd]",
		text: "WHO has a userfaultfd openFD, which cannot be captured",
		hint: "have the program not use userfaultfd",
	}, {
		log: regexp.MustCompile(`Unable to detach from (\d+): No such process`), kind: snapshot.KindState, pid: 1,
		text: "WHO is being traced by a debugger or strace",
		hint: "detach the debugger and try again",
	}, {
		log: regexp.MustCompile(`Unseizable non-zombie (\d+) found`), kind: snapshot.KindState, pid: 1,
		text: "WHO cannot be stopped: it is being traced by a debugger or strace, or forbids it",
		hint: "detach the debugger and try again",
	}, {
		log: regexp.MustCompile(`Can't get rlimit \d+: Operation not permitted`), kind: snapshot.KindUncloneable,
		text: "WHO runs as another user than CRIU, whose resource limits only a process with CAP_SYS_RESOURCE may read",
		hint: "give snapd-ctr CAP_SYS_RESOURCE, or run the container's processes as root",
	}, {
		log: regexp.MustCompile(`Connected TCP socket, consider`), kind: snapshot.KindUncloneable,
		text: "WHO has an established TCP connection, and this dump may not close it",
		hint: "let the connection be closed, or end it first",
	}, {
		log: regexp.MustCompile(`In-flight connection \(l\) for ([0-9a-f]+)`), kind: snapshot.KindUncloneable,
		text: "WHO has a listening socket with a connection that it has not accepted yet",
		hint: "try again: the connection is accepted as soon as the process gets to it",
	}, {
		log: regexp.MustCompile(`In-flight connection on|Non-empty write queue on an in-flight|closed in-flight socket`), kind: snapshot.KindUncloneable,
		text: "WHO has a unix socket with a connection that it has not accepted yet",
		hint: "try again: the connection is accepted as soon as the process gets to it",
	}, {
		log: regexp.MustCompile(`unix: Dangling connection (\d+)|External socket is used`), kind: snapshot.KindUncloneable,
		link: "socket:[$1]",
		text: "WHO has a unix socketFD that is connected to a process outside of the container",
		hint: "have the program close the connection before the snapshot",
	}, {
		log:  regexp.MustCompile(`Can't dump half of stream unix connection. name: (.*); peer name: (.*)`),
		kind: snapshot.KindUncloneable,
		text: "WHO has a unix socket that is connected to a process outside of the container ($2)",
		hint: "have the program close the connection before the snapshot",
	}, {
		log: regexp.MustCompile(`Unsupported socket family: (\d+)`), kind: snapshot.KindUncloneable,
		text: "WHO has a socket of address family $1, which cannot be captured",
		hint: "have the program close it before the snapshot",
	}, {
		log: regexp.MustCompile(`Unsupported proto (\d+) for socket`), kind: snapshot.KindUncloneable,
		text: "WHO has a socket of protocol $1, which cannot be captured",
		hint: "have the program close it before the snapshot; for a Go program set GODEBUG=multipathtcp=0",
	}, {
		log: regexp.MustCompile(`Can't dump corked dgram socket`), kind: snapshot.KindUncloneable,
		text: "WHO has a datagram socket with a datagram that it has half written",
		hint: "try again",
	}, {
		log: regexp.MustCompile(`Can't dump ghost file (.+) of (\d+) size`), kind: snapshot.KindUncloneable,
		text: "WHO has $1 open, a deleted file of $2 bytes: more than goes into a snapshot",
		hint: "have the program close the file, or not delete it",
	}, {
		log: regexp.MustCompile(`Can't dump nested (\w+) namespace for (\d+)`), kind: snapshot.KindUncloneable, pid: 2,
		text: "WHO has a $1 namespace of its own within the container",
		hint: "containers in containers cannot be captured",
	}, {
		log: regexp.MustCompile(`Nested mount namespaces are not supported`), kind: snapshot.KindUncloneable,
		text: "WHO has a mount namespace of its own within the container, and mounts that CRIU cannot make again there",
		hint: "containers in containers cannot be captured",
	}, {
		log: regexp.MustCompile(`Can't dump a pid namespace without the process init|A root task is dead`), kind: snapshot.KindState,
		text: "the process to be captured has ended or is not the init of its pid namespace",
	}, {
		log:  regexp.MustCompile(`(?:Mount \d+:| \d+:|Mount \d+ )(\S+)[^\n]*(?:unreachable sharing|is autodetected external mount|doesn't have a proper root mount)`),
		kind: snapshot.KindUncloneable,
		text: "the mount on $1 comes from outside of the container and is not known to be external",
		hint: "this is a mount that snapd-ctr does not understand: please report it with the log",
	}, {
		log: regexp.MustCompile(`Can't lookup mount=\d+ for fd=-?\d+ path=(\S+)`), kind: snapshot.KindUncloneable,
		text: "WHO has $1 open, which lies on a mount that the container does not see",
		hint: "start the container with its descriptors opened within it, or without them",
	}, {
		log: regexp.MustCompile(`tty: (?:Found slave peer index|No task found with sid|Can't)[^\n]*`), kind: snapshot.KindUncloneable,
		text: "WHO has a terminal open that is not the container's own",
		hint: "start the container without a terminal",
	}, {
		log: regexp.MustCompile(`Unexpected rt vDSO area bounds`), kind: snapshot.KindUnsupported,
		text: "this CRIU is too old for this kernel", hint: setupHint,
	}, {
		log: regexp.MustCompile(`pidfd pid \d+ is not a part of process tree`), kind: snapshot.KindUncloneable,
		text: "WHO has a pidfd of a process outside of the container",
		hint: "have the program close it before the snapshot",
	}, {
		log: regexp.MustCompile(`dumping BPF map type (\d+)`), kind: snapshot.KindUncloneable,
		text: "WHO has a BPF map of type $1, which cannot be captured",
	}, {
		log: regexp.MustCompile(`PID (\d+) has uprobes vma`), kind: snapshot.KindState, pid: 1,
		text: "WHO is being traced with uprobes", hint: "end the tracing and try again",
	}, {
		log: regexp.MustCompile(`(?i)memfd[^\n]*hugetlb|hugetlb[^\n]*memfd`), kind: snapshot.KindUncloneable,
		text: "WHO has a memfd of huge pages, which cannot be captured here",
	}, {
		log: regexp.MustCompile(`aio: [^\n]+|AIO[^\n]*(?:not supported|failed)`), kind: snapshot.KindUncloneable,
		text: "WHO uses asynchronous I/O (libaio) in a way that cannot be captured",
	}, {
		log: regexp.MustCompile(`File (\S+) has bad (size|mode) (\S+) \(expect (\S+)\)`), kind: snapshot.KindIncompatible,
		text: "$1 has $2 $3 now and had $4 when the snapshot was taken",
		hint: "files that a process of the snapshot has open or mapped must be as they were: put the file back, or take the snapshot again",
	}, {
		log:  regexp.MustCompile(`Can't bind inet socket[^\n]*: Address already in use`),
		kind: snapshot.KindState,
		text: "an address that a process listens on is taken", hint: "use a network namespace of the clone's own",
	}, {
		log: regexp.MustCompile(`Can't bind inet socket[^\n]*: Cannot assign requested address`), kind: snapshot.KindIncompatible,
		text: "a process was bound to an address that this network namespace does not have",
	}, {
		log: regexp.MustCompile(`Pid (\d+) do not match expected (\d+)|Can't fork for (\d+): File exists`), kind: snapshot.KindState,
		text: "a process id of the snapshot is taken", hint: "restore into a pid namespace of its own",
	}, {
		log:  regexp.MustCompile(`Can't open file (\S+) on restore: No such file or directory|Can't open (\S+): No such file or directory`),
		kind: snapshot.KindIncompatible,
		text: "a process has $1$2 open, and there is no such file any more",
	}, {
		log: regexp.MustCompile(`No space left on device`), kind: snapshot.KindNoSpace,
		text: "the file system for the images is full", hint: "free some space, or have the store elsewhere",
	}, {
		log: regexp.MustCompile(`Timeout reached`), kind: snapshot.KindFailed,
		text: "the processes could not be stopped in time",
		hint: "a process waits in the kernel without end (state D), or the timeout is too short",
	}, {
		log: regexp.MustCompile(`Can't dump file (\d+) of that type \[(\d+)\] \(([^)]*)\)`), kind: snapshot.KindUncloneable,
		text: "WHO has descriptor $1 open ($3), of a kind that cannot be captured",
		hint: "have the program close it before the snapshot",
	},
}
