import type { FastifyRequest } from 'fastify';
import {
  parseRoomId,
  parseServerName,
  parseUserId,
  type RoomId,
  type ServerName,
  type UserId,
} from '@exeunt/pdu';
import { isJsonObject, memberOf, parseJsonBytes, type JsonObject, type JsonValue } from '@exeunt/signing';
import { MatrixError } from '../matrix-error/matrix-error.js';

/** The body of a platform request, lossless. Throws {@link MatrixError} or a `JsonSyntaxError`. */
export function jsonBody(request: FastifyRequest): JsonObject {
  const bytes = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
  const body = parseJsonBytes(bytes);
  if (!isJsonObject(body)) throw new MatrixError(400, 'M_BAD_JSON', 'the body is not a JSON object', 'HT-01');
  return body;
}

export function optionalString(body: JsonObject, key: string): string | undefined {
  const value = memberOf(body, key);
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw new MatrixError(400, 'M_INVALID_PARAM', `${key} is not a string`);
  return value;
}

export function requiredString(body: JsonObject, key: string): string {
  const value = optionalString(body, key);
  if (value === undefined) throw new MatrixError(400, 'M_MISSING_PARAM', `${key} is missing`);
  return value;
}

export function optionalObject(body: JsonObject, key: string): JsonObject | undefined {
  const value = memberOf(body, key);
  if (value === undefined || value === null) return undefined;
  if (!isJsonObject(value)) throw new MatrixError(400, 'M_INVALID_PARAM', `${key} is not an object`);
  return value;
}

export function optionalList(body: JsonObject, key: string): readonly JsonValue[] | undefined {
  const value = memberOf(body, key);
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value)) throw new MatrixError(400, 'M_INVALID_PARAM', `${key} is not a list`);
  return value as readonly JsonValue[];
}

export function requiredRoomId(body: JsonObject, key: string): RoomId {
  const roomId = parseRoomId(requiredString(body, key));
  if (roomId === undefined) throw new MatrixError(400, 'M_INVALID_PARAM', `${key} is no room ID`, 'ID-07');
  return roomId;
}

/** A list of server names; empty where the key is absent. */
export function serverNames(body: JsonObject, key: string): readonly ServerName[] {
  return (optionalList(body, key) ?? []).map((one) => {
    const server = typeof one === 'string' ? parseServerName(one) : undefined;
    if (server === undefined) {
      throw new MatrixError(400, 'M_INVALID_PARAM', `${key} holds no server name`, 'ID-01');
    }
    return server;
  });
}

export function requiredUserId(body: JsonObject, key: string): UserId {
  return userId(requiredString(body, key), key);
}

/** A list of user IDs; empty where the key is absent. */
export function userIds(body: JsonObject, key: string): readonly UserId[] {
  return (optionalList(body, key) ?? []).map((one) => userId(one, key));
}

/** The `limit` of a page: 100 unless told, from 1 to `most`. */
export function pageLimit(text: string | undefined, otherwise = 100, most = 10_000): number {
  if (text === undefined) return otherwise;
  const limit = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (limit < 1) throw new MatrixError(400, 'M_INVALID_PARAM', 'limit is not a number from 1 on');
  return Math.min(limit, most);
}

function userId(text: unknown, key: string): UserId {
  const parsed = typeof text === 'string' ? parseUserId(text) : undefined;
  if (parsed === undefined) throw new MatrixError(400, 'M_INVALID_PARAM', `${key} is no user ID`, 'ID-05');
  return parsed;
}
