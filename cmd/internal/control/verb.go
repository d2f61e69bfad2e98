package control

import (
	"context"
	"errors"
	"io"
	"iter"
	"reflect"
	"time"
)

// Verb is a question with one answer. Q and A are what travels, as JSON.
type Verb[Q, A any] struct {
	Name string
	// Within is how long the daemon may take; 0 is two minutes.
	Within time.Duration
}

// Upload is a question followed by a stream from the hand, with one answer.
type Upload[Q, A any] struct{ Name string }

// Download is a question with one answer, followed by a stream to the hand.
type Download[Q, A any] struct{ Name string }

// Feed is a question with any number of answers.
type Feed[Q, A any] struct {
	Name string
	// Live sends each answer as it is known, for a person who watches; else they travel as they fill a packet.
	Live bool
}

// Description is a verb without its types' parameters, for whoever walks all of them.
type Description struct {
	Name            string
	Shape           string // "verb", "upload", "download" or "feed"
	Request, Answer reflect.Type
}

// Describe returns what v is.
func (v Verb[Q, A]) Describe() Description { return describe[Q, A](v.Name, "verb") }

// Describe returns what v is.
func (v Upload[Q, A]) Describe() Description { return describe[Q, A](v.Name, "upload") }

// Describe returns what v is.
func (v Download[Q, A]) Describe() Description { return describe[Q, A](v.Name, "download") }

// Describe returns what v is.
func (v Feed[Q, A]) Describe() Description { return describe[Q, A](v.Name, "feed") }

func describe[Q, A any](name, shape string) Description {
	return Description{Name: name, Shape: shape, Request: reflect.TypeFor[Q](), Answer: reflect.TypeFor[A]()}
}

const defaultWithin = 2 * time.Minute

func (v Verb[Q, A]) within() time.Duration {
	if v.Within == 0 {
		return defaultWithin
	}
	return v.Within
}

// Serve makes s answer v with f, which runs in a goroutine of its request and should return when ctx ends.
func (v Verb[Q, A]) Serve(s *Server, f func(ctx context.Context, q Q) (A, error)) {
	s.handle(v.Name, func(x *exchange) {
		var q Q
		if err := errors.Join(x.request(&q), x.permit(q)); err != nil {
			x.fail(err)
			return
		}
		ctx, cancel := context.WithTimeout(x.ctx(), v.within())
		defer cancel()
		a, err := f(ctx, q)
		if err != nil {
			x.fail(err)
			return
		}
		x.answer(a)
	})
}

// Serve makes s answer v with f. body ends with io.EOF only if the hand sent all it had; if the hand died or was cut it ends
// with an error whose code is Cut.
func (v Upload[Q, A]) Serve(s *Server, f func(ctx context.Context, q Q, body io.Reader) (A, error)) {
	s.handle(v.Name, func(x *exchange) {
		var q Q
		if err := errors.Join(x.requestHeader(&q), x.permit(q)); err != nil {
			x.fail(err)
			return
		}
		a, err := f(x.ctx(), q, x.upload())
		if err != nil {
			x.fail(err)
			return
		}
		x.answer(a)
	})
}

// Serve makes s answer v with f: f calls start once with the answer and writes the stream to what start returns. A failure
// after that is told behind the stream, so that the hand never takes a part for the whole.
func (v Download[Q, A]) Serve(s *Server, f func(ctx context.Context, q Q, start func(A) (io.Writer, error)) error) {
	s.handle(v.Name, func(x *exchange) {
		var q Q
		if err := errors.Join(x.request(&q), x.permit(q)); err != nil {
			x.fail(err)
			return
		}
		err := f(x.ctx(), q, func(a A) (io.Writer, error) { return x.download(a) })
		x.finish(err)
	})
}

// Serve makes s answer v with f: f calls send for each answer.
func (v Feed[Q, A]) Serve(s *Server, f func(ctx context.Context, q Q, send func(A) error) error) {
	s.handle(v.Name, func(x *exchange) {
		var q Q
		if err := errors.Join(x.request(&q), x.permit(q)); err != nil {
			x.fail(err)
			return
		}
		send := x.feed(v.Live)
		err := f(x.ctx(), q, func(a A) error { return send(a) })
		x.finish(err)
	})
}

// Call asks the daemon behind c.
func (v Verb[Q, A]) Call(ctx context.Context, c *Client, q Q) (A, error) {
	var a A
	ctx, cancel := context.WithTimeout(ctx, v.within()+5*time.Second) // the daemon's own word for a timeout is better
	defer cancel()
	resp, err := c.post(ctx, v.Name, q)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	err = decodeAnswer(io.LimitReader(resp.Body, maxAnswer), &a)
	return a, err
}

// Call asks the daemon behind c and sends body after the question; if body fails the daemon sees a cut stream.
func (v Upload[Q, A]) Call(ctx context.Context, c *Client, q Q, body io.Reader) (A, error) {
	var a A
	resp, err := c.upload(ctx, v.Name, q, body)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	err = decodeAnswer(io.LimitReader(resp.Body, maxAnswer), &a)
	return a, err
}

// Call asks the daemon behind c. The stream ends with io.EOF only if all of it arrived; it must be closed.
func (v Download[Q, A]) Call(ctx context.Context, c *Client, q Q) (A, io.ReadCloser, error) {
	var a A
	resp, err := c.post(ctx, v.Name, q)
	if err != nil {
		return a, nil, err
	}
	if err := decodeHeader(resp.Header.Get(headerAnswer), &a); err != nil {
		resp.Body.Close()
		return a, nil, Errorf(ProtocolError, "understand the daemon's answer to %s: %v", v.Name, err).WithHint("%s", differentVersions)
	}
	return a, &tailed{resp}, nil
}

// Call asks the daemon behind c and yields the answers as they arrive; an error is yielded once, last.
func (v Feed[Q, A]) Call(ctx context.Context, c *Client, q Q) iter.Seq2[A, error] {
	return func(yield func(A, error) bool) {
		var zero A
		resp, err := c.post(ctx, v.Name, q)
		if err != nil {
			yield(zero, err)
			return
		}
		defer resp.Body.Close()
		for line, err := range lines(&tailed{resp}) {
			var a A
			if err == nil {
				err = decodeLine(line, &a)
			}
			if err != nil {
				yield(zero, err)
				return
			}
			if !yield(a, nil) {
				return
			}
		}
	}
}
