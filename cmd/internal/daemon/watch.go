package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is how long the definitions must have been left alone before they are read: editors and copies write in steps.
const quiet = 300 * time.Millisecond

// watch tells of changed definitions until ctx ends, then closes the channel. Directories are watched, for files are
// replaced as wholes. Without inotify nothing is told, and `pierfs apply` remains.
func (d *Daemon) watch(ctx context.Context) <-chan struct{} {
	changes := make(chan struct{}, 1)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		d.log.Warn("changed definitions go unnoticed until `pierfs apply`", "err", err)
		close(changes)
		return changes
	}
	d.watchDirs(watcher)
	go func() { // ends with ctx; live reads until the channel is closed
		defer close(changes)
		defer watcher.Close()
		d.follow(ctx, watcher, changes)
	}()
	return changes
}

func (d *Daemon) follow(ctx context.Context, watcher *fsnotify.Watcher, changes chan<- struct{}) {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case event, ok := <-watcher.Events:
			if !ok {
				return
			}
			if concerns(event) {
				timer.Reset(quiet)
			}
		case err, ok := <-watcher.Errors:
			if !ok {
				return
			}
			d.log.Warn("changed definitions may have gone unnoticed", "err", err) // an overflow of the queue: look at all
			timer.Reset(quiet)
		case <-timer.C:
			d.watchDirs(watcher) // there may be new ones
			select {
			case changes <- struct{}{}:
			default: // one is waiting already
			}
		}
	}
}

// concerns leaves out what editors and dirs.Replace leave beside a definition, and what changes no content.
func concerns(event fsnotify.Event) bool {
	name := filepath.Base(event.Name)
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasPrefix(name, "#") {
		return false
	}
	return event.Op != fsnotify.Chmod || strings.HasSuffix(name, ".toml")
}

// watchDirs watches the configuration directory and the two levels below it where definitions stand. What is watched
// already stays so.
func (d *Daemon) watchDirs(watcher *fsnotify.Watcher) {
	root := d.o.Dirs.Config
	dirs := []string{root}
	for _, pattern := range []string{"*", "connections/*"} {
		below, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			continue // only a bad pattern, and these are good ones for every root without metacharacters
		}
		dirs = append(dirs, below...)
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || !info.IsDir() {
			continue
		}
		if err := watcher.Add(dir); err != nil {
			d.log.Warn("changes are not noticed here", "dir", dir, "err", err)
		}
	}
}
