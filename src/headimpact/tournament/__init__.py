"""Which rule for choosing layers wins: ``contest`` says who takes part, ``comparison`` gives intervals, ``standings``
says what may be claimed, ``figure`` draws it."""
