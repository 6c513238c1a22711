package criu

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/netdev"
	"google.golang.org/protobuf/proto"
)

// SetNetns makes the network namespace of the root task, in the images of a dump, an external one: a restore is given it
// under the name key, and makes neither interfaces nor addresses. It says whether there is such a namespace: a root task
// on the network of its host has none, and its images stay as they are.
func (im *Images) SetNetns(key string) (own bool, err error) {
	var ids criu_core.TaskKobjIdsEntry
	name := fmt.Sprintf("ids-%d.img", im.tree[0].GetPid())
	if err := readOne(im.dir, name, magicIDs, &ids); err != nil {
		return false, err
	}
	if ids.GetNetNsId() == 0 || ids.GetNetNsId() == im.inventory.GetRootIds().GetNetNsId() {
		return false, nil
	}
	record, err := proto.Marshal(&netdev.NetnsEntry{ExtKey: new(key)})
	if err != nil {
		return false, err
	}
	b := binary.LittleEndian.AppendUint32(nil, magicCommon)
	b = binary.LittleEndian.AppendUint32(b, magicNetns)
	path := filepath.Join(im.dir, fmt.Sprintf("netns-%d.img", ids.GetNetNsId()))
	if err := os.WriteFile(path+".new", appendRecord(b, record), 0o600); err != nil {
		return false, err
	}
	return true, os.Rename(path+".new", path)
}

// RootMode returns the permissions of the root directory, which CRIU compares with those it finds in a restore; 0 where no
// process has it open in a way that the images record.
func (im *Images) RootMode() (uint32, error) {
	files, err := im.order()
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		if r := f.GetReg(); r != nil && r.GetName() == "/" && r.Mode != nil {
			return r.GetMode() & 0o7777, nil
		}
	}
	return 0, nil
}
