package template

import (
	"fmt"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
)

// checkMappings refuses what neither the template nor a clone can map.
func (c *compiler) checkMappings(t *criu.Task) {
	end := uint64(0) // of the one before
	for _, v := range t.Space.GetVmas() {
		s := v.GetStatus()
		at := fmt.Sprintf("mapping %x-%x", v.GetStart(), v.GetEnd())
		if s&criu.VMAGuard == 0 {
			if v.GetStart() < end {
				c.refuse("%s: it lies over the one before, or below it", at)
				continue
			}
			end = v.GetEnd()
		}
		if why := impossible(v); why != "" {
			c.refuse("%s: %s", at, why)
			continue
		}
		switch {
		case s&criu.VMASocket != 0:
			c.refuse("%s: a packet socket's ring", at)
		case s&criu.VMAAIO != 0:
			if why := c.cannotRing(t, v); why != "" {
				c.refuse("%s: %s", at, why)
			}
		case s&criu.VMAShadow != 0:
			c.refuse("%s: a shadow stack", at)
		case s&(criu.VMAPlugin|criu.VMAUnsupported) != 0:
			c.refuse("%s: a device's memory", at)
		case v.GetFlags()&mapHuge != 0:
			c.refuse("%s: pages of hugetlbfs", at)
		case s&criu.VMAMemfd != 0 && s&criu.VMAFilePrivate != 0:
			c.refuse("%s: a private mapping of a memfd", at)
		case s&(criu.VMAFilePrivate|criu.VMAFileShared) != 0 && s&criu.VMAMemfd == 0:
			c.mappedFile(at, v)
		}
	}
}

// vsyscallPage is the kernel's, at the same address in all processes.
const vsyscallPage = 0xffffffffff600000

// kinds are all that say what is mapped, but for the vsyscall page.
const kinds = criu.VMAFilePrivate | criu.VMAFileShared | criu.VMAAnonPrivate | criu.VMAAnonShared | criu.VMAVdso | criu.VMAVvar | criu.VMASysV | criu.VMASocket |
	criu.VMAAIO | criu.VMAMemfd | criu.VMAShadow | criu.VMAPlugin | criu.VMAUnsupported

// impossible says why no process can have a mapping, which then comes from images that somebody has made up. What is let
// through here is mapped by the template, which has all powers, before anything else looks at it.
func impossible(v *vma.VmaEntry) string {
	s, kind := v.GetStatus(), v.GetFlags()&mapType
	shared := s&(criu.VMAFileShared|criu.VMAAnonShared) != 0
	switch {
	case s&criu.VMAVsyscall != 0 && s&(kinds|criu.VMAGuard)&^criu.VMAAnonPrivate == 0 && v.GetStart() == vsyscallPage && v.GetEnd() == vsyscallPage+pageSize:
		return "" // CRIU says of it that it is private memory
	case s&criu.VMAVsyscall != 0:
		return "no vsyscall page"
	case v.GetStart() >= v.GetEnd() || v.GetEnd() > taskEnd || (v.GetStart()|v.GetEnd()|v.GetPgoff())%pageSize != 0:
		return "no addresses of a process"
	case v.GetProt()&^7 != 0:
		return fmt.Sprintf("the protection %#x", v.GetProt())
	case v.GetFlags()&^mapKnown != 0:
		return fmt.Sprintf("the flags %#x", v.GetFlags())
	case private(v) && (shared || kind != mapPrivate && kind != mapDroppable) || shared && kind != mapShared && kind != mapSharedValidate:
		return fmt.Sprintf("shared by its state %#x and not by its flags %#x, or the other way round", s, v.GetFlags())
	}
	return ""
}

// mappedFile checks a file that is mapped. If that is a private mapping the file must be on the root file system: that is all
// that the template has of the container's files. Shared mappings are made in each clone.
func (c *compiler) mappedFile(at string, v *vma.VmaEntry) {
	f, err := c.images.File(uint32(v.GetShmid()))
	if err != nil || f.GetReg() == nil {
		c.refuse("%s: its file is not in the images", at)
		return
	}
	name := f.GetReg().GetName()
	shared := v.GetStatus()&criu.VMAFileShared != 0
	if c.remapped(uint32(v.GetShmid())) && !(shared && c.ghostMapped(v)) {
		c.refuse("%s: the file %s was deleted", at, name)
	}
	if m := mountOf(c.config.Mounts, name); m != "/" && !shared {
		c.refuse("%s: the file %s is on the mount %s", at, name, m)
	}
}

// ghostMapped says whether v is a shared mapping of a file that has been deleted, which a clone can make again.
func (c *compiler) ghostMapped(v *vma.VmaEntry) bool {
	if v.GetStatus()&criu.VMAFileShared == 0 || v.GetStatus()&criu.VMAMemfd != 0 {
		return false
	}
	remaps, err := c.images.Remaps()
	remap := remaps[uint32(v.GetShmid())]
	return err == nil && remap.GetRemapType() == remap_file_path.RemapType_GHOST && remap != nil
}

// mountOf returns the path of the mount that a file of the container is on.
func mountOf(mounts []snapshot.Mount, name string) string {
	on := "/"
	for _, m := range mounts {
		if (name == m.Path || strings.HasPrefix(name, strings.TrimSuffix(m.Path, "/")+"/")) && len(m.Path) >= len(on) {
			on = m.Path
		}
	}
	return on
}
