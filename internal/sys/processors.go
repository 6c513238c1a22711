package sys

import (
	"os"
	"strconv"
	"strings"
)

// PossibleProcessors returns how many processors the machine could have, those that could be plugged in among them: as many
// as the kernel makes room for. 0 says that it does not tell.
func PossibleProcessors() uint64 {
	b, err := os.ReadFile("/sys/devices/system/cpu/possible") // "0-7", "0,2-3"
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b[strings.LastIndexAny(string(b), "-,")+1:])), 10, 31)
	if err != nil {
		return 0
	}
	return n + 1
}
