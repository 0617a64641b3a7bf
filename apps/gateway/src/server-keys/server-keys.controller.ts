import { Controller, Get, Inject } from '@nestjs/common';
import type { JsonObject } from '@exeunt/signing';
import { FEDERATION_SIDE, type FederationSide } from '../federation-side.js';
import { product } from '../product.js';

/** What peers may ask without a signature: our keys, and who we are. (KY-01, FE-07) */
@Controller('_matrix')
export class ServerKeysController {
  constructor(@Inject(FEDERATION_SIDE) private readonly side: FederationSide) {}

  @Get('key/v2/server')
  keys(): JsonObject {
    return this.side.ownKeys.keyResponse(this.side.now());
  }

  /** Peers of the time before v1.6 ask for one key; they get the same answer. (KY-14) */
  @Get('key/v2/server/:keyId')
  keysForOldPeers(): JsonObject {
    return this.keys();
  }

  @Get('federation/v1/version')
  version(): { readonly server: { readonly name: string; readonly version: string } } {
    return { server: { name: product.name, version: product.version } };
  }
}
