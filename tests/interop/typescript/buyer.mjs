// A buyer made of the official TypeScript packages and nothing else. Told what to buy by JSON in
// its first argument; prints one line of JSON per answer, and one for the refund.
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactEvmScheme, toClientEvmSigner } from "@x402/evm";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/client";
import { createPublicClient, http } from "viem";
import { privateKeyToAccount } from "viem/accounts";

const { rpcUrl, network, key, scheme, urls, refund } = JSON.parse(process.argv[2]);
const reader = createPublicClient({ transport: http(rpcUrl) });
const signer = toClientEvmSigner(privateKeyToAccount(key), reader);
const paying =
  scheme === "exact" ? new ExactEvmScheme(signer) : new BatchSettlementEvmScheme(signer);
// The packages know no default asset on a development chain.
const client = new x402Client().setSpendControls(false).register(network, paying);
const buy = wrapFetchWithPayment(fetch, client);

const say = (line) => console.log(JSON.stringify(line));

for (const url of urls) {
  const answer = await buy(url);
  const header = answer.headers.get("PAYMENT-RESPONSE");
  const receipt = header && decodePaymentResponseHeader(header);
  say({ status: answer.status, body: await answer.json(), receipt });
}
if (refund) say(await paying.refund(urls[0]));
