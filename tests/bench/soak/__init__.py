"""A long run under load with everything going wrong: does the proxy leak, and do its books agree with the gateway's?

`plan` draws from a seed what is asked and what goes wrong; `client` asks, many at a time; `gateway` is the sandbox on
both chains, and keeps accounts; `census` counts what lives within the proxy; `run` has them play together; `verdict`
says what must hold, and whether it did; `page` writes it down.
"""
