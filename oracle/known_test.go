package oracle

import (
	"regexp"
	"slices"
	"testing"

	"github.com/snapd-ctr/snapd-ctr/internal/picture"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// difference is something in which a clone is known to differ from the original.
type difference struct {
	line   *regexp.Regexp // of a line of a comparison
	reason string
}

// knownOfClones are what a clone by any engine has otherwise than the original.
var knownOfClones = compile([][2]string{
	{`^~ \d+/(timens_offsets|ns/time|ns/time_for_children) `, "the clocks of a clone go on from the capture"},
	{`^~ mounts//etc/(hostname|hosts|resolv.conf) `, "its own copy, on a tmpfs"},
	{`^~ mounts//dev/shm .* source shm .* source tmpfs `, "a tmpfs is mounted without the name that runc gives it"},
	{`^~ \d+/cgroup/ cgroup#\d+ → the host's$`, "where version 1 has the controllers, only the original gets a cgroup of version 2"},
	{`says death signal \d+$|prctl: death signal`, "a clone dies with its shim"},
	{`Cpus_allowed(_list)? |says processors `, "the processors that a thread may use are not in CRIU's images"},
	{`/timerslack |says (thread .* )?slack \d+$|^threads: thread .* slack `, "timer slack is not in CRIU's images"},
	{`^~ \d+/fd/90[01]/(address|tcp|option/(incoming_cpu|tcp window_clamp|ip multicast_ttl|queued)) |says connected `,
		"connections are closed in a clone: these two descriptors are the ends of one"},
	{`^~ \d+/coredump_filter `, "the filter of core dumps is not in CRIU's images"},
	{`^~ \d+/fd/\d+/option/ip (ttl|tos) `, "IP_TTL and IP_TOS are not in CRIU's images"},
	{`^~ \d+/fd/\d+/option/ipv6 v6only 0 → 1$`, "CRIU's images have IPV6_V6ONLY set for sockets that are bound to an address of IPv6"},
	{`^~ \d+/fd/\d+/eventfd-semaphore 1 → 0$|^eventfds: eventfd \d+ gives \d+, not 1$`, "EFD_SEMAPHORE is not in CRIU's images"},
	{`^~ \d+/maps/[0-9a-f-]+ ...s \S+ /dev/zero \(deleted\) .* → .* /memfd:/dev/zero \(deleted\) `, "shared memory without a file is a memfd in CRIU's images"},
	{`says io priority `, "priorities of input and output are not in CRIU's images"},
})

// knownOf are the differences between the original and clones of one engine.
var knownOf = map[string][]difference{
	snapshot.EngineTemplate: compile([][2]string{
		{`^\+ \d+/maps/[0-9a-f]+00000-[0-9a-f]+ r-xp 0 anonymous \[rd ex mr mw me\]$|^\+ \d+/maps/[0-9a-f]+02000-[0-9a-f]+ r--p 0 anonymous \[rd mr mw me\]$`,
			"the pages by which it became what it is: the stub's code, and the registers of the captured threads"},
		{`^~ mounts//etc/(hostname|hosts|resolv.conf) `, "its own copy, on a tmpfs of another layout"},
	}),
	snapshot.EngineCRIU: compile([][2]string{
		{`^~ \d+/fd/90[01]/option/reuseport 0 → 1$`, "CRIU leaves SO_REUSEPORT set on a connection that it closes"},
		{`^timerfds: timerfd \d+ has 0 seconds to go, not `, "CRIU stops an interval timer that has expired and was not read"},
		{`^~ \d+/maps/\S+ r--s \S+ /SYSV \[rd mr me ms\] → r--s \S+ /SYSV \[rd sh mr mw me ms\]$`, "CRIU attaches segments for writing, and then takes the right away"},
		{`^~ \d+/fd/\d+/watch(#\d+)? inotify wd:\d+ mask:(4000280 ignored_mask:0 → inotify wd:\d+ mask:280|80000006 ignored_mask:0 → inotify wd:\d+ mask:6) ignored_mask:0$`,
			"CRIU forgets IN_EXCL_UNLINK and IN_ONESHOT of a watch"},
		{`says segment \d+ goes when nobody has it [01]$`, "CRIU makes a segment again that was to go, and forgets that it was"},
		{`^timerfds: timerfd \d+ for a time of the day has `, "CRIU sets a timer for a time of the day by what it had to go at the capture"},
		{`^~ \d+/fd/[12]/flags \d+ → \d*1\d{5}$`, "CRIU opens the pipes of the log by name, which sets O_LARGEFILE"},
		{`^~ \d+/fd/\d+/flags 0?2?300000 → 0?2?100000$`, "CRIU does not set O_DIRECTORY again"},
		{`^~ \d+/fd/\d+/eventfd-count [0-9a-f]{9,16} → |^eventfds: eventfd \d+ gives \d+, not \d{10,}$`, "CRIU keeps 32 bits of an eventfd's counter"},
	}),
}

func compile(list [][2]string) []difference {
	var out []difference
	for _, d := range list {
		out = append(out, difference{regexp.MustCompile(d[0]), d[1]})
	}
	return out
}

// known returns the differences that containers made by two engines may have; "" stands for the original.
func known(from, to string) []difference {
	if from == to {
		return nil
	}
	list := slices.Concat(knownOf[from], knownOf[to])
	if from == "" || to == "" {
		list = append(list, knownOfClones...)
	}
	return list
}

// explained says whether one of the known differences is the reason for a line.
func explained(line string, known []difference) bool {
	return slices.ContainsFunc(known, func(d difference) bool { return d.line.MatchString(line) })
}

// What is known of one engine is known in both directions, and excuses nothing between two clones of one engine, or in
// another engine's clones.
func TestKnown(t *testing.T) {
	lost := picture.Change{Sign: '~', Name: "1/fd/24/flags", From: "02300000", To: "02100000"}
	for _, c := range []struct {
		change   picture.Change
		from, to string
		want     bool
	}{
		{lost, "", "criu", false},
		{lost.Reversed(), "", "criu", true},
		{lost, "", "template", true},
		{lost.Reversed(), "criu", "template", false},
		{lost, "template", "criu", false},
		{lost, "criu", "criu", true},
		{picture.Change{Sign: '~', Name: "1/oom_score_adj", From: "1", To: "0"}, "", "criu", true},
		{picture.Change{Sign: '-', Name: "1/fd/3", From: "pipe#1"}, "criu", "template", true},
		{picture.Change{Sign: '~', Name: "1/ns/time", From: "the host's", To: "time#1"}, "", "template", false},
		{picture.Change{Sign: '~', Name: "1/ns/time", From: "the host's", To: "time#1"}, "criu", "template", true},
	} {
		if got := surprising(c.change, c.from, c.to); got != c.want {
			t.Errorf("%q from %q to %q is a surprise: %v, want %v", c.change, c.from, c.to, got, c.want)
		}
	}
}
