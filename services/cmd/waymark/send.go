package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waymark/services/kit/mllp"
	"waymark/services/kit/run"
)

const portMLLP = 2575

// sendOptions say where to send HL7 v2 messages.
type sendOptions struct {
	MLLP string `flag:"mllp" help:"address to send HL7 v2 messages to (default 127.0.0.1:2575)"`
	TLS  bool   `flag:"mllp-tls" help:"use TLS, with --tls-ca, --tls-cert and --tls-key where given, else with what this machine trusts"`
}

func (c *cli) sendCommand() *cobra.Command {
	var t *target
	var o sendOptions
	cmd := &cobra.Command{
		Use: "hl7 FILE...", Short: "Send HL7 v2 messages over MLLP and print the acknowledgements",
		Long: `Send the messages of files (- is stdin) one after the other over MLLP, and print each
acknowledgement as it comes. A file may hold several messages, or a batch.

The exit code is 0 when all were accepted (AA), 4 when one was refused (AE, AR).

Example:
  waymark send hl7 services/edge/testdata/adt-a28.hl7`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			var secure *tls.Config
			if o.TLS {
				var err error
				if secure, err = t.tls(); err != nil {
					return err
				}
				secure = cmp.Or(secure, &tls.Config{MinVersion: tls.VersionTLS12})
			}
			return c.send(cmd.Context(), or(o.MLLP, t.at(portMLLP)), secure, t.Timeout, files)
		},
	}
	t = c.bindTarget(cmd)
	run.Bind(cmd.Flags(), &o)
	return noun("send", "Send messages as another system would", cmd)
}

func (c *cli) send(ctx context.Context, address string, secure *tls.Config, timeout time.Duration, files []string) error {
	var messages [][]byte
	for _, name := range files {
		var raw []byte
		var err error
		if name == "-" {
			raw, err = io.ReadAll(c.in)
		} else {
			raw, err = os.ReadFile(name)
		}
		if err != nil {
			return usage(nil, err)
		}
		found := mllp.Split(raw)
		if len(found) == 0 {
			return usage(nil, fmt.Errorf("%s holds no message", name))
		}
		messages = append(messages, found...)
	}
	dialer := &net.Dialer{Timeout: timeout}
	var conn net.Conn
	var err error
	if secure != nil {
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: secure}).DialContext(ctx, "tcp", address)
	} else {
		conn, err = dialer.DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return unavailable("waymark doctor", "MLLP at %s does not answer: %w", address, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answers := bufio.NewReader(conn)
	counts := map[string]int{}
	for i, m := range messages {
		conn.SetDeadline(time.Now().Add(timeout))
		if _, err := conn.Write(mllp.Frame(m)); err != nil {
			return unavailable("", "message %d of %d was not sent: %w", i+1, len(messages), err)
		}
		accept, apply := modes(m)
		if accept == "" && apply == "" {
			apply = "AL" // original mode: one answer
		}
		code := "AA" // of a message that asks for no answer
		for _, asked := range []string{accept, apply} {
			if asked == "ER" || asked == "SU" {
				return usage(nil, fmt.Errorf("message %d asks for an answer on a condition (MSH-15, MSH-16: %s): nobody could tell here whether to wait for it", i+1, asked))
			}
			if asked != "AL" {
				continue
			}
			answer, err := mllp.Read(answers, mllp.MaxMessage)
			if err != nil {
				return unavailable("", "message %d of %d got no answer, send it again: %w", i+1, len(messages), err)
			}
			fmt.Fprintln(c.out, strings.ReplaceAll(strings.TrimRight(string(answer), "\r"), "\r", "\n"))
			if code = verdict(answer); code == "CE" || code == "CR" {
				break // nothing follows
			}
		}
		counts[code]++
	}
	accepted := counts["AA"] + counts["CA"]
	c.say("%d sent: %d accepted (AA, CA), %d refused (AE, CE), %d of a kind not taken (AR, CR)", len(messages), accepted, counts["AE"]+counts["CE"], counts["AR"]+counts["CR"])
	if accepted < len(messages) {
		return &coded{errors.New("not all messages were accepted"), exitConflict, "waymark message list --state MESSAGE_STATE_REFUSED"}
	}
	return nil
}

// modes are MSH-15 and MSH-16: which answers a message asks for.
func modes(message []byte) (accept, apply string) {
	line, _, _ := strings.Cut(strings.TrimLeft(string(message), " \t\v\r\n"), "\r")
	line, _, _ = strings.Cut(line, "\n")
	if len(line) < 4 {
		return "", ""
	}
	fields := strings.Split(line, line[3:4])
	for len(fields) < 16 {
		fields = append(fields, "")
	}
	return strings.TrimSpace(fields[14]), strings.TrimSpace(fields[15])
}

// verdict is MSA-1 of an acknowledgement.
func verdict(answer []byte) string {
	_, msa, _ := strings.Cut(string(answer), "\rMSA")
	if len(msa) < 3 {
		return ""
	}
	code, _, _ := strings.Cut(msa[1:], msa[:1])
	return strings.TrimSpace(code)
}
