package run

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	metav1 "waymark/proto/waymark/meta/v1"
)

func TestOneAddressHoldsOnlySoManyConnections(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis := &capped{Listener: inner, most: 2, open: map[string]int{}}
	defer lis.Close()
	accepted := make(chan net.Conn, 3)
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	dial()
	dial()
	first := <-accepted
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("a third connection was not closed")
	}
	first.Close()
	first.Close() // counts once
	dial()
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("a third connection was not closed after one had left")
	}
}

// TestHalfOpenConnectionsDoNotStopCalls holds connections on which nothing more
// comes, some in the middle of a header.
func TestHalfOpenConnectionsDoNotStopCalls(t *testing.T) {
	r := start(t, Config{}, nil, served(func(context.Context, *metav1.Command) error { return nil }))
	for _, address := range []string{r.GRPC(), r.HTTP()} {
		for range 50 {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET /me"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.do(within(t, 5*time.Second), command()); err != nil {
		t.Errorf("call: %v", err)
	}
	if body := get(t, "http://"+r.HTTP()+"/healthz"); body != "ok\n" {
		t.Errorf("/healthz: %q", body)
	}
}
