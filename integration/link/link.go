// Package link is a slow and faulty network between a client and a server on loopback: a TCP relay that holds bytes back
// for a round trip, counts what crosses it, and breaks on demand.
//
// Flights are counted without a clock. Every byte carries a number: what the client sends is one more than the highest
// number it has been delivered, what the server sends is the highest number the server has been delivered. The highest
// number that came back is the length of the longest chain of question and answer, which is what a program waits for,
// however fast or slow the machine is. Connecting costs its round trip: SYN and its answer are counted like the others, so
// the first word of either side on a new connection comes back after two. A round trip must only be long enough for a pipelined burst to leave as one: the
// replies to its first request are held until then.
//
// A Link keeps ports: it listens on a loopback address of its own with the port of the server, so that a protocol that
// tells a port (FTP's EPSV) can be led through it as well, one Forward for each port.
package link

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Options says how long the way is. The zero value is a way without any delay.
type Options struct {
	RoundTrip time.Duration // half of it is spent in each direction
	Bandwidth int64         // bytes a second in each direction; 0 is without a bound
}

// Direction is one of the two ways.
type Direction int

const (
	ToServer Direction = iota
	ToClient
)

func (d Direction) String() string { return [...]string{"to the server", "to the client"}[d] }

// queued is how much may be under way in one direction of one connection before the sender has to wait.
const queued = 32 << 20

// Link is the network. Its methods may be called from many goroutines at once.
type Link struct {
	mu        sync.Mutex
	o         Options
	changed   sync.Cond // state, or what a waiting relay waits for
	state     state
	listeners map[string]*forward
	pairs     map[*pair]struct{}
	free      [2]time.Time // when the direction's bandwidth is free again

	seen     [2]int // highest number delivered: [ToServer] to the server, [ToClient] to the client
	given    int    // highest number that any byte bears
	bytes    [2]int64
	opened   int
	cutAfter [2]int64 // bytes still to deliver before the cut; -1 for none
	cutEach  [2]int64 // what cutAfter is behind each cut; 0 for none

	work sync.WaitGroup
}

// state is what the network does just now.
type state int

const (
	healthy state = iota
	dark          // bytes are accepted and not delivered
	closed
)

// forward is one port.
type forward struct {
	listener net.Listener // nil while connections are refused
	target   string
}

// New returns a Link that is taken down when the test ends.
func New(t testing.TB, o Options) *Link {
	l := &Link{o: o, listeners: map[string]*forward{}, pairs: map[*pair]struct{}{}, cutAfter: [2]int64{-1, -1}}
	l.changed.L = &l.mu
	t.Cleanup(l.close)
	return l
}

// Forward listens on listen and leads each connection to target, and returns the address to connect to. An empty listen
// is an address of loopback that nobody else uses, with target's port.
func (l *Link) Forward(t testing.TB, listen, target string) string {
	t.Helper()
	var listener net.Listener
	var err error
	if listen != "" {
		listener, err = net.Listen("tcp", listen)
	} else {
		listener, err = listenAside(target)
	}
	if err != nil {
		t.Fatalf("listen for a link to %s: %v", target, err)
	}
	return l.lead(listener, target)
}

// lead leads what connects to listener to target, and returns listener's address.
func (l *Link) lead(listener net.Listener, target string) string {
	f := &forward{listener: listener, target: target}
	address := listener.Addr().String()
	l.mu.Lock()
	l.listeners[address] = f
	l.mu.Unlock()
	l.work.Go(func() { l.accept(f, listener) })
	return address
}

// ForwardPorts leads the ports first to last of target, and returns the loopback address where they are the same.
func (l *Link) ForwardPorts(t testing.TB, target string, first, last int) (host string) {
	t.Helper()
	listeners, err := listenBeside(first, last)
	if err != nil {
		t.Fatalf("listen for a link to the ports %d to %d of %s: %v", first, last, target, err)
	}
	for i, listener := range listeners {
		l.lead(listener, net.JoinHostPort(target, strconv.Itoa(first+i)))
	}
	host, _, _ = net.SplitHostPort(listeners[0].Addr().String()) // a listener's address is a good one
	return host
}

// listenBeside listens on the ports first to last at the first loopback address from 127.77.0.1 on where all are free.
func listenBeside(first, last int) (listeners []net.Listener, err error) {
	for i := 1; i < 1<<16; i++ {
		if listeners, err = listenAll(fmt.Sprintf("127.77.%d.%d", i>>8, i&0xff), first, last); err == nil {
			return listeners, nil
		}
	}
	return nil, err
}

// listenAll listens on the ports first to last of host, or on none.
func listenAll(host string, first, last int) (listeners []net.Listener, err error) {
	for port := first; port <= last; port++ {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			for _, listener := range listeners {
				_ = listener.Close() // an open listener closes without an error
			}
			return nil, err
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}

// listenAside listens on target's port at an address where it is free.
func listenAside(target string) (net.Listener, error) {
	_, service, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(service)
	if err != nil {
		return nil, err
	}
	listeners, err := listenBeside(port, port)
	if err != nil {
		return nil, err
	}
	return listeners[0], nil
}

// accept takes connections until the listener is closed.
func (l *Link) accept(f *forward, listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return // closed by Refuse or at the end of the test
		}
		if client.RemoteAddr().(*net.TCPAddr).IP.Equal(knocker.IP) {
			_ = client.Close() // that is its answer
			continue
		}
		l.work.Go(func() { l.relay(client.(*net.TCPConn), f.target) })
	}
}

// pair is a connection: the client's to us and ours to the server.
type pair struct {
	ends     [2]*net.TCPConn // [ToServer] reaches the server, nil until the connection stands; [ToClient] the client
	number   int             // of its SYN
	earliest time.Time       // when the client can have heard the server
	once     sync.Once
}

// reset ends both ends as a broken connection ends: with RST, and nothing more is delivered.
func (p *pair) reset() {
	p.once.Do(func() {
		for _, c := range p.ends {
			if c == nil {
				continue
			}
			_ = c.SetLinger(0) // it fails only on a connection that has ended already
			_ = c.Close()
		}
	})
}

// relay leads one connection to target until it has ended in both directions.
func (l *Link) relay(client *net.TCPConn, target string) {
	p := &pair{ends: [2]*net.TCPConn{ToClient: client}}
	defer p.reset()
	roundTrip, ok := l.begin(p)
	if !ok {
		return
	}
	defer func() {
		l.mu.Lock()
		delete(l.pairs, p)
		l.changed.Broadcast()
		l.mu.Unlock()
	}()
	time.Sleep(roundTrip) // SYN and its answer
	server, err := net.DialTimeout("tcp", target, 10*time.Second)
	if err != nil || !l.reached(p, server.(*net.TCPConn)) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { l.carry(p, ToServer) })
	both.Go(func() { l.carry(p, ToClient) })
	both.Wait()
}

// begin takes in a connection that a client has made, and returns how long it takes to come about; false if the link is
// closed. The kernel has let the client in already: what he sends meanwhile waits, and what the server says comes no
// earlier than after two round trips.
func (l *Link) begin(p *pair) (roundTrip time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == closed {
		return 0, false
	}
	l.pairs[p] = struct{}{}
	l.opened++
	p.number = l.seen[ToClient] + 1
	l.given = max(l.given, p.number+1)
	p.earliest = time.Now().Add(2 * l.o.RoundTrip)
	return l.o.RoundTrip, true
}

// reached completes p with the connection to the server, who has heard one more of the client by now: that his SYN was
// answered. It returns false, and closes the connection, if p was broken meanwhile.
func (l *Link) reached(p *pair, server *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, alive := l.pairs[p]; !alive || l.state == closed {
		_ = server.Close() // nothing was said on it
		return false
	}
	p.ends[ToServer] = server
	l.changed.Broadcast()
	l.seen[ToServer] = max(l.seen[ToServer], p.number+1)
	return true
}

// parcel is what one read brought, on its way.
type parcel struct {
	data   []byte
	due    time.Time
	number int
	end    ending
}

// ending is how a direction goes on behind a parcel.
type ending int

const (
	goesOn   ending = iota
	finished        // the sender will send no more
	broken          // the sender's connection broke
)

// carry moves bytes in one direction of p until it ends.
func (l *Link) carry(p *pair, d Direction) {
	way := newWay()
	var reader sync.WaitGroup
	reader.Go(func() {
		defer way.close()
		from := p.ends[1-d]
		for {
			data := make([]byte, 64<<10)
			n, err := from.Read(data)
			if n > 0 && !way.put(l.send(p, d, data[:n])) {
				return
			}
			if err == io.EOF {
				way.put(parcel{due: l.due(p, d, 0), end: finished})
				return
			}
			if err != nil {
				way.put(parcel{due: l.due(p, d, 0), end: broken})
				return
			}
		}
	})
	defer reader.Wait()
	defer way.abandon()
	for {
		next, ok := way.take()
		if !ok {
			return
		}
		sleepUntil(next.due)
		if !l.deliver(p, d, next) {
			return
		}
		switch next.end {
		case finished:
			_ = p.ends[d].CloseWrite() // it fails only if that end is gone
			return
		case broken:
			p.reset()
			return
		}
	}
}

// lateness is how late the runtime's timers come, where nothing else is to be done: it waits for them by whole milliseconds.
const lateness = 2 * time.Millisecond

// sleepUntil returns when due has come, and by the kernel's own timer: a way that is a millisecond longer than it says would be measured
// as the work of whoever is on it.
func sleepUntil(due time.Time) {
	time.Sleep(time.Until(due) - lateness)
	for rest := time.Until(due); rest > 0; rest = time.Until(due) {
		span := syscall.NsecToTimespec(int64(rest))
		_ = syscall.Nanosleep(&span, nil) // a signal ends it early
	}
}

// send notes data that was sent on p in direction d and makes it a parcel.
func (l *Link) send(p *pair, d Direction, data []byte) parcel {
	due := l.due(p, d, len(data))
	l.mu.Lock()
	defer l.mu.Unlock()
	number := l.seen[ToServer]
	if d == ToServer {
		number = max(l.seen[ToClient], p.number) + 1
	}
	l.given = max(l.given, number)
	return parcel{data: data, due: due, number: number}
}

// due returns when n bytes sent now on p arrive.
func (l *Link) due(p *pair, d Direction, n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.o.Bandwidth > 0 {
		if l.free[d].Before(now) {
			l.free[d] = now
		}
		l.free[d] = l.free[d].Add(time.Duration(int64(n) * int64(time.Second) / l.o.Bandwidth))
		now = l.free[d]
	}
	due := now.Add(l.o.RoundTrip / 2)
	if d == ToClient && due.Before(p.earliest) {
		return p.earliest
	}
	return due
}

// deliver writes a parcel out, waiting while the network is dark, and reports whether more may follow. What is counted is
// counted before the receiver can see it: an answer never overtakes the question's count.
func (l *Link) deliver(p *pair, d Direction, next parcel) bool {
	l.mu.Lock()
	for l.state == dark {
		if _, alive := l.pairs[p]; !alive {
			break
		}
		l.changed.Wait()
	}
	if l.state == closed {
		l.mu.Unlock()
		return false
	}
	data, cut := next.data, false
	if left := l.cutAfter[d]; left >= 0 && len(data) > 0 && int64(len(data)) >= left {
		data, cut = data[:left], true
		l.cutAfter[d] = -1
		if each := l.cutEach[d]; each > 0 {
			l.cutAfter[d] = each
		}
	} else if left > 0 {
		l.cutAfter[d] -= int64(len(data))
	}
	l.bytes[d] += int64(len(data))
	if len(data) > 0 {
		l.seen[d] = max(l.seen[d], next.number)
	}
	l.mu.Unlock()

	var err error
	if len(data) > 0 {
		_, err = p.ends[d].Write(data)
	}
	if cut {
		l.Cut()
		return false
	}
	if err != nil {
		p.reset()
		return false
	}
	return true
}

// SetRoundTrip changes the round trip of what is sent from now on.
func (l *Link) SetRoundTrip(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.o.RoundTrip = d
}

// Cut breaks every connection with RST. New ones are accepted.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.pairs {
		p.reset()
		delete(l.pairs, p)
	}
	l.changed.Broadcast()
}

// CutAfter breaks every connection with RST as soon as n more bytes were delivered in direction d, the last of them
// included; with n 0, when the next one arrives. A negative n takes the order back.
func (l *Link) CutAfter(d Direction, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutAfter[d] = n
}

// CutEach is CutAfter again and again, each time n bytes after the last cut. An n of 0 ends that.
func (l *Link) CutEach(d Direction, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutEach[d], l.cutAfter[d] = n, n
	if n == 0 {
		l.cutAfter[d] = -1
	}
}

// BlackHole keeps all connections open and accepts new ones, but delivers nothing until Heal, not even an end.
func (l *Link) BlackHole() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == healthy {
		l.state = dark
	}
}

// Refuse makes every new connection end with ECONNREFUSED until Heal; those that stand go on.
func (l *Link) Refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.listeners {
		if f.listener != nil {
			_ = f.listener.Close() // an open listener closes without an error
			f.listener = nil
		}
	}
}

// Heal ends BlackHole and Refuse. What the black hole held back is delivered, as TCP would send it again.
func (l *Link) Heal(t testing.TB) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == dark {
		l.state = healthy
		l.changed.Broadcast()
	}
	for address, f := range l.listeners {
		if f.listener != nil {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatalf("listen again on %s: %v", address, err)
		}
		f.listener = listener
		l.work.Go(func() { l.accept(f, listener) })
	}
}

// close takes everything down and waits until nothing of the link is left.
func (l *Link) close() {
	l.Refuse()
	l.mu.Lock()
	l.state = closed
	l.changed.Broadcast()
	l.mu.Unlock()
	l.Cut()
	l.work.Wait()
}

// Counts is what crossed a link.
type Counts struct {
	Flights     int   // round trips that somebody had to wait for, one after the other
	ToServer    int64 // bytes delivered
	ToClient    int64
	Connections int
}

func (c Counts) String() string {
	return fmt.Sprintf("%d flights, %d bytes to the server, %d to the client, %d connections", c.Flights, c.ToServer, c.ToClient, c.Connections)
}

// knocker is from where settle connects.
var knocker = net.TCPAddr{IP: net.IPv4(127, 78, 0, 1)}

// settle returns when every connection that clients hold for made has come about, which takes it a round trip longer than
// the kernel lets them believe. Connections are accepted in order: when a last one is, all before it are.
func (l *Link) settle() {
	l.mu.Lock()
	var addresses []string
	for address, f := range l.listeners {
		if f.listener != nil {
			addresses = append(addresses, address)
		}
	}
	l.mu.Unlock()
	for _, address := range addresses {
		c, err := (&net.Dialer{LocalAddr: &knocker, Timeout: 10 * time.Second}).Dial("tcp", address)
		if err != nil {
			continue // refused meanwhile
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second)) // it fails only on a connection that has ended
		_, _ = c.Read(make([]byte, 1))                          // its end is all that comes
		_ = c.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.state != closed && l.beginning() {
		l.changed.Wait()
	}
}

// beginning reports whether a connection is not made yet.
func (l *Link) beginning() bool {
	for p := range l.pairs {
		if p.ends[ToServer] == nil {
			return true
		}
	}
	return false
}

// Meter waits until the connections that clients have made stand, begins to count, and returns a func that tells what
// crossed since. Only one count at a time has a meaning for flights, and what was under way before it began is not counted.
func (l *Link) Meter() func() Counts {
	l.settle()
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.given
	l.seen[ToClient] = first
	bytes, opened := l.bytes, l.opened
	return func() Counts {
		l.mu.Lock()
		defer l.mu.Unlock()
		return Counts{
			Flights:     l.seen[ToClient] - first,
			ToServer:    l.bytes[ToServer] - bytes[ToServer],
			ToClient:    l.bytes[ToClient] - bytes[ToClient],
			Connections: l.opened - opened,
		}
	}
}

// Open returns how many connections stand.
func (l *Link) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pairs)
}
