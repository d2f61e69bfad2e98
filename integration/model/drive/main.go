// Command drive runs the reference-model test on any directory: of a mount, with the server's own view of it in -backing,
// or of a local disk.
//
//	go run ./integration/model/drive -dir /mnt/new -backing /srv/sftp/new -processes 8 -duration 10m
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"time"

	"pierfs/integration/model"
)

func main() {
	if err := drive(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func drive() error {
	var o model.Options
	serve := flag.Bool("serve", false, "be one of the processes (for the command itself)")
	flag.StringVar(&o.Dir, "dir", "", "existing, empty directory to work in")
	flag.StringVar(&o.Backing, "backing", "", "the same directory as the server has it (default: -dir)")
	flag.Uint64Var(&o.Seed, "seed", 1, "where the random operations begin")
	flag.IntVar(&o.Processes, "processes", 8, "at once, each in a directory of its own and all in a shared one")
	flag.IntVar(&o.Hands, "hands", 1, "processes that take turns in each directory")
	flag.IntVar(&o.Ops, "ops", 0, "operations in each directory (0: as -duration allows)")
	flag.DurationVar(&o.Duration, "duration", time.Minute, "how long (0: until -ops are done)")
	flag.DurationVar(&o.Limit, "limit", 30*time.Second, "in which each operation must return")
	flag.BoolVar(&o.Outages, "outages", false, "allow operations to fail because the server is away")
	shrink := flag.Duration("shrink", time.Minute, "how long to shrink a failing trace")
	flag.Parse()
	if *serve {
		return model.Serve(o.Dir, os.Stdin, os.Stdout, nil)
	}
	if o.Dir == "" || o.Ops == 0 && o.Duration == 0 {
		return errors.New("need -dir, and -ops or -duration")
	}
	if o.Backing == "" {
		o.Backing = o.Dir
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Command = func(dir string) *exec.Cmd { return exec.Command(self, "-serve", "-dir", dir) }
	report, err := model.Run(o)
	fmt.Println(report)
	if f, ok := errors.AsType[*model.Failure](err); ok && !o.Outages && *shrink > 0 && len(f.Trace) > 0 {
		err = errors.Join(err, fmt.Errorf("smaller: %w", model.Shrink(o, f, *shrink)))
	}
	return err
}
