import { Controller, HttpCode, Inject, Put, UseGuards } from '@nestjs/common';
import { CommandBus } from '@nestjs/cqrs';
import { memberOf, type JsonObject, type JsonValue } from '@exeunt/signing';
import type { AuthenticatedRequest } from '../federation-request/federation-request.js';
import { FederationRequestGuard, FromPeer } from '../federation-request/federation-request.guard.js';
import { LosslessJson } from '../federation-request/lossless-json.js';
import { MatrixError } from '../matrix-error/matrix-error.js';
import { ReceiveTransaction } from './receive-transaction.command.js';

const maxPdus = 50;
const maxEdus = 100;
const maxTxnIdLength = 1_024;

/** `PUT send`: another server's events. Spec v1.19, server-server-api, Transactions. (TX-01, TX-02, TX-10) */
@Controller('_matrix/federation')
@UseGuards(FederationRequestGuard)
export class ReceiveTransactionController {
  constructor(@Inject(CommandBus) private readonly commands: CommandBus) {}

  @Put('v1/send/:txnId')
  @HttpCode(200)
  @LosslessJson()
  async send(@FromPeer() { origin, content, segments }: AuthenticatedRequest): Promise<string> {
    const body = content ?? {};
    const txnId = segments[4] ?? '';
    if (txnId === '' || txnId.length > maxTxnIdLength || txnId.includes('\0')) {
      throw new MatrixError(400, 'M_INVALID_PARAM', 'the path holds no transaction ID that we take', 'TX-01');
    }
    const stated = memberOf(body, 'origin');
    if (stated !== undefined && stated !== origin) {
      throw new MatrixError(400, 'M_INVALID_PARAM', 'the origin is not the server that sends', 'TX-07');
    }
    const pdus = listIn(body, 'pdus', maxPdus);
    if (pdus === undefined) throw new MatrixError(400, 'M_BAD_JSON', 'pdus is missing', 'TX-01');
    listIn(body, 'edus', maxEdus);
    const answer = await this.commands.execute(new ReceiveTransaction(origin, txnId, pdus));
    if (answer === 'busy') {
      throw new MatrixError(429, 'M_LIMIT_EXCEEDED', 'too many transactions are under way', 'HT-06');
    }
    return answer;
  }
}

function listIn(body: JsonObject, key: string, most: number): readonly JsonValue[] | undefined {
  const value = memberOf(body, key);
  if (value === undefined) return undefined;
  if (!Array.isArray(value)) throw new MatrixError(400, 'M_BAD_JSON', `${key} is not a list`, 'TX-01');
  if (value.length > most) {
    throw new MatrixError(400, 'M_INVALID_PARAM', `there are more than ${most} ${key}`, 'TX-10');
  }
  return value as readonly JsonValue[];
}
