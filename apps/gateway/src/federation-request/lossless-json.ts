import { applyDecorators, Header } from '@nestjs/common';

/**
 * For a handler that gives its JSON as text, because a PDU may hold numbers that JavaScript would round: the text is
 * sent as it is, as JSON.
 */
export const LosslessJson = (): MethodDecorator =>
  applyDecorators(Header('Content-Type', 'application/json'));
