// This file takes the place of the client's own containers_test.go, which
// starts its servers with Docker. It connects to nodes that already run and
// whose addresses stand in the environment.
package esdb_test

import (
	"context"
	"os"
	"testing"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"
)

var NAME_GENERATOR names

// names gives out names that no test has used before.
type names struct{}

func (names) Generate() string { return "test-" + uuid.NewString() }

// Container is a running node.
type Container struct{ Endpoint string }

func (*Container) Close() {}

func GetEnvOrDefault(key, otherwise string) string {
	if value, ok := os.LookupEnv(key); ok {
		return value
	}
	return otherwise
}

func IsESDBVersion20() bool { return false }

func CreateClient(connection string, t *testing.T) *esdb.Client {
	config, err := esdb.ParseConnectionString(connection)
	if err != nil {
		t.Fatal(err)
	}
	client, err := esdb.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func GetClient(t *testing.T, container *Container) *esdb.Client {
	if GetEnvOrDefault("EVENTSTORE_INSECURE", "true") == "true" {
		return CreateClient("esdb://"+container.Endpoint+"?tls=false", t)
	}
	return CreateClient("esdb://admin:changeit@"+container.Endpoint+"?tlsverifycert=false", t)
}

func CreateEmptyDatabase(t *testing.T) (*Container, *esdb.Client) {
	return database(t, "CONFORMANCE_EMPTY")
}

func CreatePopulatedDatabase(t *testing.T) (*Container, *esdb.Client) {
	return database(t, "CONFORMANCE_SEEDED")
}

func database(t *testing.T, variable string) (*Container, *esdb.Client) {
	container := &Container{Endpoint: os.Getenv(variable)}
	client := GetClient(t, container)
	WaitForAdminToBeAvailable(t, client)
	return container, client
}

// WaitForAdminToBeAvailable reads the first user: a node that answers at all has it.
func WaitForAdminToBeAvailable(t *testing.T, client *esdb.Client) {
	stream, err := client.ReadStream(context.Background(), "$users", esdb.ReadStreamOptions{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
}
