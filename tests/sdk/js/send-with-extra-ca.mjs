// Run with NODE_EXTRA_CA_CERTS, which node reads only at its start. Arguments: endpoint and key.

import { AzureKeyCredential, EventGridPublisherClient } from "@azure/eventgrid";

const [endpoint, key] = process.argv.slice(2);
const client = new EventGridPublisherClient(endpoint, "CloudEvent", new AzureKeyCredential(key));
await client.send([{ type: "order.paid", source: "/shop", id: "by-environment", data: { n: 1 } }]);
