"""Words the reasons why a payment was not made: our own refusals, and the rejections of gateways."""
