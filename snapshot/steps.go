package snapshot

// The effects of a capture, in order. The tasks are frozen from EffectDump until EffectThaw.
const (
	EffectCheck    Effect = "check"     // the container runs, the name is free
	EffectReady    Effect = "ready"     // the application answers, and has been warmed
	EffectStage    Effect = "stage"     // a staging directory in the store
	EffectUnstage  Effect = "unstage"   //
	EffectBase     Effect = "base"      // the layers beneath the container's own files are in the store
	EffectPlan     Effect = "plan"      // every mount has somebody who makes it again
	EffectDump     Effect = "dump"      // every task is frozen, and its memory and state are written
	EffectUnfreeze Effect = "unfreeze"  // the dump is vetoed, and the tasks go on
	EffectFiles    Effect = "files"     // the container's own files are written; in a capture at the same instant
	EffectThaw     Effect = "thaw"      // the tasks go on
	EffectSeal     Effect = "seal"      // pages of zeros are dropped, the images are read and described
	EffectBlobs    Effect = "blobs"     // everything is in the store under its digest
	EffectPublish  Effect = "publish"   // the snapshot is visible
	EffectStopTask Effect = "stop-task" // the tasks end, where that was asked for
)

// CaptureMachine returns the machine of a capture. With stop the tasks stay frozen until the snapshot is published and
// then end: a container is never gone before its snapshot is safe.
func CaptureMachine(stop bool) *Machine {
	steps := []Step{
		{Do: EffectCheck},
		{Do: EffectReady},
		{Do: EffectStage, Undo: EffectUnstage},
		{Do: EffectBase},
		{Do: EffectPlan},
		{Do: EffectDump, Undo: EffectUnfreeze},
		{Do: EffectFiles},
	}
	if !stop {
		steps = append(steps, Step{Do: EffectThaw})
	}
	steps = append(steps, Step{Do: EffectSeal}, Step{Do: EffectBlobs}, Step{Do: EffectPublish})
	if stop {
		steps = append(steps, Step{Do: EffectStopTask})
	}
	return NewMachine("capture", steps, EffectPublish)
}

// The effects of making a container, with their undos. The network namespace of a clone is attached at once.
const (
	EffectSpec        Effect = "spec"   // what the container is to be is known
	EffectRootfs      Effect = "rootfs" // the overlay is mounted
	EffectUnmount     Effect = "unmount"
	EffectCgroup      Effect = "cgroup"
	EffectRmCgroup    Effect = "rm-cgroup"
	EffectTemplate    Effect = "template" // the snapshot's template is there
	EffectNetns       Effect = "netns"    // a network namespace
	EffectRmNetns     Effect = "rm-netns"
	EffectNetwork     Effect = "network" // it is attached to its bridge
	EffectDetach      Effect = "detach"
	EffectMounts      Effect = "mounts" // the mounts that CRIU takes from outside
	EffectRmMounts    Effect = "rm-mounts"
	EffectMemory      Effect = "memory" // somebody serves the clone's memory
	EffectCloseMemory Effect = "close-memory"
	EffectStdio       Effect = "stdio"
	EffectCloseStdio  Effect = "close-stdio"
	EffectOutput      Effect = "output" // the log is open
	EffectCloseOutput Effect = "close-output"
	EffectRestore     Effect = "restore" // every process runs
	EffectCreate      Effect = "create"  // init waits to become the program
	EffectKill        Effect = "kill"
	EffectRecord      Effect = "record" // the container is listed as running
	EffectRun         Effect = "run"    // init is the program
)

// CloneMachine returns the machine of one clone by the criu engine.
func CloneMachine() *Machine {
	return NewMachine("clone", []Step{
		{Do: EffectRootfs, Undo: EffectUnmount},
		{Do: EffectCgroup, Undo: EffectRmCgroup},
		{Do: EffectNetns, Undo: EffectRmNetns},
		{Do: EffectMounts, Undo: EffectRmMounts},
		{Do: EffectMemory, Undo: EffectCloseMemory},
		{Do: EffectStdio, Undo: EffectCloseStdio},
		{Do: EffectRestore, Undo: EffectKill},
	}, "")
}

// TemplateCloneMachine returns the machine of one clone by the template engine.
func TemplateCloneMachine() *Machine {
	return NewMachine("template-clone", []Step{
		{Do: EffectTemplate},
		{Do: EffectCgroup, Undo: EffectRmCgroup},
		{Do: EffectNetns, Undo: EffectRmNetns},
		{Do: EffectMounts, Undo: EffectRmMounts},
		{Do: EffectStdio, Undo: EffectCloseStdio},
		{Do: EffectRestore, Undo: EffectKill},
	}, "")
}

// SlotMachine returns the machine of a sandbox made ahead of its clone.
func SlotMachine() *Machine {
	return NewMachine("slot", []Step{
		{Do: EffectCgroup, Undo: EffectRmCgroup},
		{Do: EffectNetns, Undo: EffectRmNetns},
		{Do: EffectMounts, Undo: EffectRmMounts},
	}, "")
}

// StartMachine returns the machine of the start of a new container.
func StartMachine() *Machine {
	return NewMachine("start", []Step{
		{Do: EffectSpec},
		{Do: EffectRootfs, Undo: EffectUnmount},
		{Do: EffectCgroup, Undo: EffectRmCgroup},
		{Do: EffectNetns, Undo: EffectRmNetns},
		{Do: EffectNetwork, Undo: EffectDetach},
		{Do: EffectFiles},
		{Do: EffectOutput, Undo: EffectCloseOutput},
		{Do: EffectCreate, Undo: EffectKill},
		{Do: EffectRecord},
		{Do: EffectRun},
	}, "")
}
