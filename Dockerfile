# syntax=docker/dockerfile:1
FROM node:24-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY . .
RUN npm run build && npm prune --omit=dev --no-audit --no-fund

FROM node:24-bookworm-slim
ENV NODE_ENV=production EXEUNT_DATA_DIR=/data
WORKDIR /app
RUN install -d -o node -g node /data
COPY --from=build --chown=root:root /app/node_modules ./node_modules
# Without what is compiled for benchmarks.
COPY --from=build --chown=root:root /app/dist/package.json ./dist/package.json
COPY --from=build --chown=root:root /app/dist/node_modules ./dist/node_modules
COPY --from=build --chown=root:root /app/dist/libs ./dist/libs
COPY --from=build --chown=root:root /app/dist/apps ./dist/apps
USER node
VOLUME /data
EXPOSE 8448 8090 8091
# Of a gateway and of one process alone; a federation-sender listens on 8091.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:8090/readyz').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "--enable-source-maps", "dist/apps/gateway/src/main.js"]
