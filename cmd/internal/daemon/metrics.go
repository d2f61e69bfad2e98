package daemon

import (
	"context"
	"time"

	"pierfs/cache"
	"pierfs/cmd/internal/control"
)

// metrics tells the figures that monitoring wants of every connection that is mounted, or owes something.
func (d *Daemon) metrics(context.Context, control.MetricsRequest) (control.MetricsAnswer, error) {
	ready := control.Metric{Name: "pierfs_ready", Type: "gauge", Help: "1 if the connection is mounted and its server answers, else 0."}
	open := control.Metric{Name: "pierfs_open_files", Type: "gauge", Help: "Files that programs have open."}
	owed := control.Metric{Name: "pierfs_owed_changes", Type: "gauge", Help: "Changes that were acknowledged and that the server does not have."}
	bytes := control.Metric{Name: "pierfs_owed_bytes", Type: "gauge", Help: "Content of these changes."}
	oldest := control.Metric{Name: "pierfs_owed_oldest_seconds", Type: "gauge", Help: "For how long the oldest of these changes is owed; 0 if there is none."}
	held := control.Metric{Name: "pierfs_owed_held", Type: "gauge", Help: "Those of these changes that are not sent before a person decides."}
	unserved := control.Metric{Name: "pierfs_owed_unserved", Type: "gauge", Help: "Those of these changes whose server nothing leads to that is mounted."}
	quarantined := control.Metric{Name: "pierfs_quarantined", Type: "gauge", Help: "Contents that could not be brought to the server and wait for a person."}
	for _, b := range d.debtors(filter("", "")) {
		add := func(m *control.Metric, value float64) {
			m.Samples = append(m.Samples, control.Sample{Connection: b.name, Environment: b.environment, Value: value})
		}
		all, err := b.owes()
		if err != nil {
			return control.MetricsAnswer{}, told(err)
		}
		if b.mount == nil && len(all) == 0 {
			continue
		}
		f := figuresOf(b, all)
		add(&owed, float64(len(all)))
		add(&bytes, float64(f.bytes))
		add(&oldest, f.age.Seconds())
		add(&held, float64(f.held))
		add(&unserved, float64(f.unserved))
		if b.mount == nil {
			continue
		}
		now, _ := b.mount.holds()
		add(&quarantined, float64(now.Quarantined))
		add(&open, float64(b.mount.openFiles()))
		add(&ready, truth(b.mount.status().State == control.StateReady))
	}
	return control.MetricsAnswer{Metrics: []control.Metric{ready, open, owed, bytes, oldest, held, unserved, quarantined}}, nil
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// figures are sums over what is owed.
type figures struct {
	bytes          int64
	age            time.Duration
	held, unserved int
}

func figuresOf(b debtor, all []cache.Due) (f figures) {
	for _, due := range all {
		f.bytes += due.Size
		f.age = max(f.age, time.Since(due.Since))
		switch b.due(due).State {
		case control.DueHeld:
			f.held++
		case control.DueUnserved:
			f.unserved++
		}
	}
	return f
}
