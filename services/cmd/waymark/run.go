package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"waymark/services/allinone"
	"waymark/services/kit/run"
)

func (c *cli) runCommand() *cobra.Command {
	var cfg run.Config
	cmd := &cobra.Command{
		Use: "run SERVICE...", Short: "Run services against an event store and NATS that run elsewhere",
		Long: `Run the named services (` + strings.Join(allinone.Names(), ", ") + `; none named is all)
in this process, against the event store and NATS that --eventstore and --nats name.
Two equal processes may run at once. waymark config prints every setting.

Example:
  waymark run referral --eventstore 'esdb://store:2113?tls=true' --nats nats://bus:4222 \
    --key-file /run/secrets/key --grpc 0.0.0.0:7400 --tls-cert cert.pem --tls-key key.pem`,
		ValidArgs: allinone.Names(),
		RunE: func(cmd *cobra.Command, names []string) error {
			for _, name := range names {
				if !slices.Contains(allinone.Names(), name) {
					return usage(cmd, fmt.Errorf("no service is called %q: there are %s", name, strings.Join(allinone.Names(), ", ")))
				}
			}
			return allinone.RunServices(cmd.Context(), cfg, names...)
		},
	}
	run.Bind(cmd.Flags(), &cfg)
	return cmd
}

func (c *cli) configCommand() *cobra.Command {
	var cfg run.Config
	cmd := &cobra.Command{
		Use: "config", Short: "Print every setting of waymark run: flag, variable, value now, default, meaning", Args: cobra.NoArgs,
		Long: `Print every setting of waymark run, with the value that this environment and the flags
given here would have. Credentials in addresses are masked.

Example:
  WAYMARK_GRPC=0.0.0.0:7400 waymark config`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.format != "" && c.format != "table" {
				return usage(cmd, fmt.Errorf("waymark config prints a table only"))
			}
			settings := pflag.NewFlagSet("", pflag.ContinueOnError)
			cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
				if f.Name != "help" {
					settings.AddFlag(f)
				}
			})
			return run.Reference(c.out, settings)
		},
	}
	run.Bind(cmd.Flags(), &cfg)
	return cmd
}
