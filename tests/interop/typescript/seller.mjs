// A seller made of the official TypeScript packages, its facilitator within. Told what to sell by
// JSON in its first argument; prints its address once it listens.
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { BatchSettlementEvmScheme as BatchFacilitator } from "@x402/evm/batch-settlement/facilitator";
import { BatchSettlementEvmScheme as BatchSeller } from "@x402/evm/batch-settlement/server";
import { ExactEvmScheme as ExactFacilitator } from "@x402/evm/exact/facilitator";
import { ExactEvmScheme as ExactSeller } from "@x402/evm/exact/server";
import { paymentMiddleware, x402ResourceServer } from "@x402/express";
import express from "express";
import { createWalletClient, defineChain, http, publicActions } from "viem";
import { privateKeyToAccount } from "viem/accounts";

const { rpcUrl, chainId, key, authorizerKey, usdc, price } = JSON.parse(process.argv[2]);
const network = `eip155:${chainId}`;
const nativeCurrency = { name: "Ether", symbol: "ETH", decimals: 18 };
const rpcUrls = { default: { http: [rpcUrl] } };
const chain = defineChain({ id: chainId, name: "development", nativeCurrency, rpcUrls });
const [account, authorizer] = [key, authorizerKey].map((each) => privateKeyToAccount(each));
const wallet = createWalletClient({ account, chain, transport: http(), pollingInterval: 50 });
const signer = toFacilitatorEvmSigner({ ...wallet.extend(publicActions), address: account.address });

const facilitator = new x402Facilitator()
  .register(network, new BatchFacilitator(signer, authorizer))
  .register(network, new ExactFacilitator(signer));
const seller = new x402ResourceServer({
  verify: (payment, requirements) => facilitator.verify(payment, requirements),
  settle: (payment, requirements) => facilitator.settle(payment, requirements),
  getSupported: async () => facilitator.getSupported(),
})
  .register(network, new BatchSeller(account.address, { receiverAuthorizerSigner: authorizer }))
  .register(network, new ExactSeller());

const amount = { asset: usdc, amount: String(price), extra: { name: "USD Coin", version: "2" } };
const sold = (scheme) => ({ accepts: { scheme, price: amount, network, payTo: account.address } });
const routes = { "GET /vouchers/*": sold("batch-settlement"), "GET /exact/*": sold("exact") };

const app = express();
app.use(paymentMiddleware(routes, seller));
app.get("/:kind/:word", (request, response) => response.json(request.params));
const server = app.listen(0, "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
