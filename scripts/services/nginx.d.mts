/** The path of this machine's nginx, the proxy of docker-compose.yml; `undefined` where it is not installed. */
export function findNginx(): string | undefined;
