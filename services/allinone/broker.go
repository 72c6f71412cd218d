package allinone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startBroker starts NATS at address (host:port) with its store in dir. Every
// message is synced before it is acknowledged: the default is two minutes.
func startBroker(address, dir string, log *slog.Logger) (*server.Server, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	broker, err := server.NewServer(&server.Options{
		ServerName:         "waymark", // JetStream's identity: never another
		Host:               host,
		Port:               port,
		JetStream:          true,
		StoreDir:           dir,
		SyncAlways:         true,
		JetStreamMaxMemory: 64 << 20,
		JetStreamMaxStore:  1 << 40, // the disk ends first; 0 would mean a share of what is free now
		NoSigs:             true,
	})
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	broker.SetLoggerV2(brokerLog{log}, false, false, false)
	broker.Start()
	if !broker.ReadyForConnections(5 * time.Second) {
		broker.Shutdown()
		return nil, fmt.Errorf("NATS did not start within 5 s; if its store is damaged, remove %s: it is a copy and is made again", dir)
	}
	return broker, nil
}

func stopBroker(broker *server.Server) error {
	broker.Shutdown()
	broker.WaitForShutdown()
	return nil
}

// connect returns a connection to NATS that never gives up.
func connect(urls, name string, log *slog.Logger, opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(urls, append([]nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent now fails now; its sender tries again
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS connection lost", "event.name", "nats.down", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("NATS connection back", "event.name", "nats.up") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("NATS error", "event.name", "nats.error", "error", err)
		}),
	}, opts...)...)
}

// brokerLog hands the server's log on, from warnings up.
type brokerLog struct{ slog *slog.Logger }

func (l brokerLog) at(level slog.Level, format string, v []any) {
	if ctx := context.Background(); l.slog.Enabled(ctx, level) {
		l.slog.Log(ctx, level, "NATS: "+fmt.Sprintf(format, v...))
	}
}

func (l brokerLog) Noticef(format string, v ...any) { l.at(slog.LevelDebug, format, v) }
func (l brokerLog) Warnf(format string, v ...any)   { l.at(slog.LevelWarn, format, v) }
func (l brokerLog) Errorf(format string, v ...any)  { l.at(slog.LevelError, format, v) }
func (l brokerLog) Fatalf(format string, v ...any)  { l.at(slog.LevelError, format, v) }
func (l brokerLog) Debugf(string, ...any)           {}
func (l brokerLog) Tracef(string, ...any)           {}

// StartBus starts NATS alone with its store in dir, as Start does, and connects
// to it. For measurements; close ends both.
func StartBus(dir string, log *slog.Logger) (js jetstream.JetStream, close func() error, err error) {
	broker, err := startBroker("127.0.0.1:0", dir, log)
	if err != nil {
		return nil, nil, err
	}
	conn, err := connect("nats://"+broker.Addr().String(), "waymark", log)
	if err != nil {
		return nil, nil, errors.Join(err, stopBroker(broker))
	}
	js, err = jetstream.New(conn)
	return js, func() error { conn.Close(); return stopBroker(broker) }, err
}
