// Verifies JWTs, one a line of standard input, and prints a verdict for each: "ok <kid>", or "failed <code>".
// usage: node verify.mjs JWKS-URL ISSUER AUDIENCE MAX-AGE-SECONDS
// The JWK Set is kept for MAX-AGE-SECONDS, and is not fetched sooner for a kid that is not in it.

import { createInterface } from "node:readline";
import { createRemoteJWKSet, jwtVerify } from "jose";

const [url, issuer, audience, maxAge] = process.argv.slice(2);
const keys = createRemoteJWKSet(new URL(url), { cacheMaxAge: 1000 * Number(maxAge), cooldownDuration: Infinity });

for await (const jwt of createInterface({ input: process.stdin })) {
  try {
    const { protectedHeader } = await jwtVerify(jwt, keys, { issuer, audience, requiredClaims: ["exp", "iat", "sub"] });
    console.log(`ok ${protectedHeader.kid}`);
  } catch (error) {
    console.log(`failed ${error.code ?? error.name}`);
  }
}
