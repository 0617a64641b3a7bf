/** How we name ourselves to peers and operators. */
export const product = { name: 'Exeunt', version: '0.1.0' } as const;
